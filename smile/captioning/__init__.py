"""Captions for folders of pictures: the parts of `sample.py`.

find_images   the images that a command line names
options       the options that `sample.py` and `evaluate.py` share
int8          the decoder's layers with weights in int8
packed        the captioner's layers packed for the CPU
describe      captions many images: read ahead, batch by batch, in order
batch_images  the images of a batch of Ray Data or `datasets`
describer     captions such batches, in whatever process they come
caption_file  captions on disk, which survive a kill
fonts         which fonts there are, and which characters each has
bidi          the order of letters where right to left meets left to right
typeset       text set in lines, for every picture and for the photo book
lettering     text on Pillow's pictures
pictures      what all pictures share: colours, and how they are written
marks         which words of a caption differ, and which are false
contact_sheet    pictures in rows, on pages, with their captions
attention_sheet  a picture for each word, light where the model looked
explain       where the model looked for each word
"""
