"""Captions for folders of pictures: what `sample.py` is made of.

find_images   which pictures a command line means
options       what `sample.py` and `evaluate.py` both ask
packed        the captioner's layers packed for the CPU
describe      read ahead, describe batch by batch, in order
caption_file  captions on disk, which survive a kill
pictures      contact sheets and other pictures of captions
explain       which part of the image made which word
"""
