"""The web page's parts, and the photo book that it binds.

plain          other people's text, shown as it is
uploads        pictures that visitors bring, within limits
offered        the captioners to choose from
worker         captioners behind queues
request        what is asked of a captioner, and the tasks that answer it
book           pictures with captions, in an order, under a title
archive        the book's pictures and captions as a zip
pdf            the book as a PDF to print
session        what a visitor has on the page
settings_view  the settings of captions
describe_view  the tab that describes pictures
look_view      the tab that shows where a captioner looked for a word
book_view      the tab of the photo book
main           the page itself, and what all visitors share
"""
