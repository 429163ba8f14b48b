"""From captions to a report: what is scored on what, every metric, intervals, tests, tables.

catalogue      every metric in one list
measured       how a number knows its interval
image_set      the images that captions are scored on, with their references
caption_files  captions made elsewhere
java           METEOR and SPICE by way of Java
scoring        captions in, numbers out
models         metrics that ask a model
rows           what tables and reports show
published      published numbers to stand beside
table          the table on the terminal
report         report.json and report.html
"""
