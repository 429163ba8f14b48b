"""Data sets: from users' files to padded batches.

captions        caption text as BLIP trains on it
splits          training, validation and test
shapes          the drawn scenes, which need no files
walk            every file at and below a folder, always in the same order
places          finds the pictures that a table names
notices         notices about data that are not errors
caption_csv     captions as CSV
caption_lines   captions as lines of JSON
caption_table   tables of captions in common forms
layouts         checks and messages that the layouts share
flickr8k        Flickr8k, in Kaggle's or its authors' layout
flickr8k_archives  the published archives of Flickr8k, and mirrors of them
flickr8k_folder    what of Flickr8k a folder lacks
flickr8k_install   what the archives hold, put into a folder
caption_ids     Flickr8k's captions by their ids, as its human ratings name them
expert_ratings  how well experts found that captions describe Flickr8k's photos
download        fetches what is lacking: `missing` and `provide`
unzip           the wanted files of a zip archive, safely
sources         where Karpathy's data sets are published, and what of them is missing
karpathy        Karpathy's JSON files: COCO, Flickr8k, Flickr30k
folder          a user's folder of pictures
load            `load_examples`: the examples that a config describes
batches         from examples to padded batches
augment         BLIP's augmentation of one picture (imports torchvision, which takes seconds)
device_augment  augmentation of a whole batch on the device
picture_cache   pictures decoded once for all epochs
__main__        `python -m smile.data`: draw scenes, download Flickr8k
"""
