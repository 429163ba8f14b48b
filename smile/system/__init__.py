"""The operating system: what differs between machines, and what all the rest leans on.

device         where to compute: CPU, CUDA or MPS
distributed    several processes that work together, as torchrun starts them
files          files read and written with care, and the one-line errors of both
lock           one run at a time in a folder
picture_files  which files are pictures, by their suffix or first bytes
"""
