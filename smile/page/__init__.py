"""The web page's parts, and the photo book that it binds.

book     pictures with captions, in an order, under a title
archive  the book's pictures and captions as a zip
pdf      the book as a PDF to print
"""
