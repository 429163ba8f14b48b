"""What `train.py` is made of, one idea a file.

schedule    which objective and learning rate at which step
setup       the captioner to train: from nothing, or from weights
loader      batches of a split
objective   the loss of a batch
precision   float32 or bfloat16, and the optimiser's step
report      captions of a few images, the lines and pictures that show how a run fares
"""
