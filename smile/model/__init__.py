"""BLIP's captioner, in reading order: each file needs only those above it.

cache      the keys and values that generation remembers: may be read last
layers     attention, the MLP, the pre-norm block
vit        the image encoder
decoder    the caption decoder, which reads words and image
blip       encoder and decoder joined: pixels and token ids in, scores of words out
generate   greedy, sampling and beam search
tokenizer  text ↔ token ids
images     from an image file to the tensor that the encoder reads
captioner  all of them joined: photo in, caption out
"""
