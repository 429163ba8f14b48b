"""BLIP's captioner, in the order of imports: each file needs only those above it.

cache      keys and values that generation keeps: skip it at first reading
layers     attention, the MLP, the pre-norm block
vit        the image encoder
decoder    the caption decoder, which attends to the image
blip       encoder and decoder joined: pixels and token ids in, logits out
tokenizer  text ↔ token ids
forbidden  words that no caption may hold: which tokens may not come next
generate   greedy, sampling and beam search
images     from an image file to the tensor that the encoder reads
captioner  all of them joined: photo in, caption out
"""
