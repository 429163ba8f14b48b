"""Scores of captions.

text         BLEU, ROUGE-L, CIDEr, statistics: text against text, no model
models       CLIP and GPT-2, from scratch
bootstrap    confidence intervals of scores, and a paired test
kendall      whether a score orders captions as people's ratings do
retrieval    ranks images by the likelihood of a caption, by a captioner
clip_score   CLIPScore, RefCLIPScore, self-retrieval
perplexity   of captions under GPT-2
"""
