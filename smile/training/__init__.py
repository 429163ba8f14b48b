"""What `train.py` is made of, one idea a file.

schedule       which objective and learning rate at which step
splits         what is trained on, validated with and shown
estimate       sizes, memory and time of a run, before it begins
checks         what is better found out before the first step
setup          the captioner to train: from nothing, or from weights
once           pictures decoded, or encoded, once for all epochs
features       what a frozen encoder makes of each image
loader         batches of a split
objective      the loss of a batch
head_loss      that loss without needless scores
precision      float32, bfloat16 or float16, and the optimiser's step
ema            the average of the latest weights
speed          what is frozen, checkpointed, compiled
onednn         linear layers that train by oneDNN's matrix product
checkpointing  what is saved, when, and how a run resumes
report         captions of a few images, the lines and pictures that show how a run fares
comparison     the captioners before and after
dry_run        one batch through everything
console        lines and progress bars
"""
