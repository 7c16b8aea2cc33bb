"""The kinds of tokenizers, one model a file.

Each module has a function `load(argument)` that returns the tokenizer on the CPU; the entry of the module in
`tokenstore.tokenizers.registry` is all that names it elsewhere.
"""
