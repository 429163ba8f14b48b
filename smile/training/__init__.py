"""What `train.py` is made of, one idea a file.

schedule     which objective and learning rate at which step
setup        the captioner to train: from nothing, or from weights
loader       batches of a split
objective    the loss of a batch
precision    float32, bfloat16 or float16, and the optimiser's step
speed        what is frozen, checkpointed, compiled
features     what a frozen encoder makes of each image, computed once
state        everything that the next step depends on
checkpoints  that state on disk: whole files, of which the last two are kept
resume       what must be the same for a run to be gone on with
folder       where a run lives, alone
signals      being asked to stop
keeper       when to save, when to stop, what to say then
report       captions of a few images, the lines and pictures that show how a run fares
estimate     what a dry run says
"""
