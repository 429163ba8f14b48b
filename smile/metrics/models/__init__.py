"""The models that score captions, from scratch.

batching          pads texts of different length
bpe               text → ids as CLIP and GPT-2 read it
text_transformer  what CLIP's text tower and GPT-2 share
clip              how well a text fits an image
gpt2              how likely a text is as English
"""
