"""From captions to a report: images and references, metrics, intervals, tests, tables.

catalogue      every metric in one list
measured       the result of a metric, with what its interval needs
image_set      the images that captions are scored on, with their references
caption_files  captions read from files
java           METEOR and SPICE, which need Java
scoring        captions in, numbers out
models         metrics that need a model
rows           what tables and reports show
published      published numbers to compare with
table          the table on the terminal
report         report.json and report.html
rated_captions    captions that experts rated, and their photos
agreement         whether the metrics order captions as experts do
agreement_report  its table, and agreement.json
"""
