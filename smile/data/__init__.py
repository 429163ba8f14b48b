"""Data sets: from people's files to padded batches.

captions        caption text as BLIP trains on it
splits          training, validation and test
shapes          the drawn scenes, which need no files
walk            every file of a folder, in an order that never changes
places          where the pictures lie that a table names
notices         remarks about data that are no errors
caption_csv     captions as CSV
caption_lines   captions as lines of JSON
caption_table   tables of captions as people have them
layouts         what the layouts share
flickr8k        Flickr8k, as Kaggle or its authors give it
karpathy        Karpathy's JSON files: COCO, Flickr8k, Flickr30k
folder          anyone's own folder of pictures
load            `load_examples`: the examples that a config describes
batches         from examples to padded batches
augment         BLIP's augmentation of one picture (imports torchvision, which takes seconds)
device_augment  augmentation of a whole batch on the device
picture_cache   pictures decoded once for all epochs
__main__        `python -m smile.data draw`
"""
