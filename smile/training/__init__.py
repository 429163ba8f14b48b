"""What `train.py` is made of, one idea a file.

schedule       which objective and learning rate at which step
provide        data and weights that are missing: named, fetched
splits         the images for training, for validation and to show
estimate       sizes, memory and time of a run, before it begins
checks         mistakes found before the first step
setup          the captioner to train: from scratch, or from weights
once           pictures decoded, or encoded, once for all epochs
features       a frozen encoder's output for each image
loader         batches of a split
objective      the loss of a batch
head_loss      that loss without needless scores
precision      float32, bfloat16 or float16, and the optimiser's step
ema            the moving average of the weights
speed          freezing, activation checkpointing, compiling
onednn         linear layers that train with oneDNN's matrix product
checkpointing  what is saved, when, and how a run resumes
loss_chart     the chart of the losses over the epochs
report         captions of a few images, the log lines and pictures of a run
comparison     the captioners before and after
dry_run        one batch through everything
console        lines and progress bars
"""
