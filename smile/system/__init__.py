"""The operating system: what differs between machines, for use by all other folders.

device         chooses among CPU, CUDA and MPS
processors     how many there are for us, and whether others compete for them
onednn         what oneDNN multiplies on this CPU
bfloat16       what bfloat16 gains or costs on this CPU
distributed    several processes that work together, as torchrun starts them
output         standard output, and how a command ends
files          files read and written safely, with one-line errors
lock           one run at a time in a folder
missing        what a command needs and this machine lacks
verified       files whose checksum was right once, so that none is hashed at every start
connection     one HTTP request for a file
download       files downloaded once from a URL
picture_files  which files are pictures, by their suffix or first bytes
"""
