"""Captions for folders of pictures: the parts of `sample.py`.

find_images   the images that a command line names
options       the options that `sample.py` and `evaluate.py` share
packed        the captioner's layers packed for the CPU
describe      captions many images: read ahead, batch by batch, in order
caption_file  captions on disk, which survive a kill
pictures      contact sheets and other pictures of captions
explain       where the model looked for each word
"""
