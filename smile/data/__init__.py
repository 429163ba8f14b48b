"""Data sets: what they hold (`load_examples`), how pictures and captions become batches.

`smile.data.augment` is left out on purpose: it imports torchvision, which takes seconds and which
only training needs.
"""
