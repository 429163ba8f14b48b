"""Weights in and out: run folders, `.pth` files of BLIP, `transformers` folders, the hub.

dtypes                 weights must be finite floats; they become float32 or bfloat16
format                 tells the format of a file of weights
pickle_guard           checks a pickle before anything reads it
torch_file             `.pth` files, read without running anything in them
file                   one file of weights: name → tensor
names                  foreign names and ours: a table for each convention
kind                   tells which model weights belong to
checksum               a file's SHA-256 beside it
positions              position embeddings for another image size
run_folder             our captioners on disk
known                  the published checkpoints and their addresses
pins                   checksums of published files
hub_cache              the hub's cache on this machine: a file of any revision
hub                    files of the Hugging Face hub, downloaded
vocabulary             a foreign vocabulary, fitted to the rows of its embedding
transformers_folder    a model of `transformers` on disk
repository             such a folder on the hub: cached, or downloaded
transformers_settings  the settings of such a folder, translated to ours
arguments              options of every command line that names a source
needed                 the files that a source needs: found, downloaded, or named as missing
load                   `smile.load`: a captioner from any source
fingerprint            a hash of a captioner, which files of captions record
export                 a captioner for `transformers` or for BLIP's own code
__main__               `python -m smile.weights inspect`, `convert` and `export`
"""
