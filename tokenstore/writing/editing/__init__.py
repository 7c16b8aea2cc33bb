"""Operations on complete stores, each of which is noted in the history of the store that it makes.

`select` and `partition` (`tokenstore.split`) take samples, `dedupe` removes duplicates, which `duplicates`
finds by hashes of codes, `join` merges whole stores, `append` (with `extended`) makes a new edition of one
with further samples, `relabel` changes labels and the names of classes.

`rows` says which samples of which stores a new split has, and `shards` writes them: whole shards are linked
(`tokenstore.writing.linked`), whole chunks copied, all else decoded and encoded. `expressions` has the
conditions of `select`, and `conditions` finds the samples they are true of. `new_store` writes a store of a
spec and an operation, `edition` one that shares most files with another.

A function that has its module's name is imported from the module. May import what `writing` may.
"""
