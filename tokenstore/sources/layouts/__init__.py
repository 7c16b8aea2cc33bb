"""Published layouts of ready codes: one module for each, which streams what lies there.

Each module has the `SOURCE` that `sources.registry` names. `rows` holds what the modules share: rows of codes
in some place, and the split made of them. A layout module imports from `sources`, and from no other layout.
"""
