"""Weights in and out: run folders, `.pth` files of BLIP, `transformers` folders, the hub.

dtypes                 which numbers a weight may be
format                 which format a file of weights has
pickle_guard           looks through a pickle before anything reads it
torch_file             `.pth` files, read without running anything in them
file                   one file of weights: name → tensor
names                  foreign names and ours: a table for each convention
kind                   which model some weights are of
checksum               a file's SHA-256 beside it
run_folder             a captioner of ours on disk
connection             one HTTP request for a file
download               files fetched once
vocabulary             a foreign vocabulary, fitted to the rows of its embedding
transformers_folder    a model of `transformers` on disk or on the hub
transformers_settings  what such a folder says beside its weights
arguments              what every command line that names a source asks
known                  the published checkpoints and where they lie
load                   `smile.load`: a captioner, wherever it comes from
export                 a captioner for `transformers` or for BLIP's own code
__main__               `python -m smile.weights inspect`, `convert` and `export`
"""
