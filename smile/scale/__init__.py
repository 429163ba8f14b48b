"""Captions by the million: shards in, tables out, by as many processes as there are.

A unit of work is a shard (a tar of images) or a part (some images of a folder). Each becomes one
table, which is there whole or not at all, and any scheduler may hand units out.

store    where shards lie and tables go: a disk, or what fsspec knows
shards   the shards that a command line names
tar      the images in a tar, streamed
parts    a folder of images cut into parts, once and for all
share    which units are this process's: torchrun, Slurm
table    rows of captions as a parquet file
output   the folder of tables: what is done, by which settings
work     captions units into tables: the one function that a scheduler calls
on_ray   such a scheduler: captioners on all machines of a Ray cluster
command  what sample.py does with them, and what people see
"""
