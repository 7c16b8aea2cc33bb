"""The export of stores: the samples of a store as files of another layout.

`export.py` has the entry point `tokenstore.export`. `contents.py` says what is exported of a split and
streams it, `base.py` what a layout is, `layouts.py` has a line for each. A layout cuts a split into units,
files that are written together; `job.py` writes each, reads it back, compares, moves it into place and notes
it, so that a killed export goes on behind it. `card.py` writes the page that describes a data set,
`pictures.py` draws samples from their codes.

May import `reading`, `tokenizers` and all that comes before them, and of `writing` the owner of a place.
"""
