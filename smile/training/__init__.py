"""What `train.py` is made of, one idea a file.

schedule     which objective and learning rate at which step
splits       what is trained on, validated with and shown
checks       what is better found out before the first step
setup        the captioner to train: from nothing, or from weights
once         pictures decoded, or encoded, once for all epochs
features     what a frozen encoder makes of each image
loader       batches of a split
objective    the loss of a batch
precision    float32, bfloat16 or float16, and the optimiser's step
ema          the average of the latest weights
speed        what is frozen, checkpointed, compiled
state        everything that the next step depends on
checkpoints  that state on disk: whole files, of which the last two are kept
resume       what must not change between a run and its --resume
folder       where a run lives, alone
signals      being asked to stop
keeper       when to save, when to stop, what to say then
report       captions of a few images, the lines and pictures that show how a run fares
comparison   the captioners before and after
estimate     what a dry run says
dry_run      one batch through everything
console      lines and progress bars
"""
