"""Scores of captions.

text         BLEU, ROUGE-L, CIDEr, statistics: text against text, no model
models       CLIP and GPT-2, from scratch
bootstrap    how sure a score is: intervals, and a paired test
retrieval    which image makes a caption likeliest, for the captioner itself
clip_score   CLIPScore, RefCLIPScore, self-retrieval
perplexity   of captions under GPT-2
"""
