"""The command lines `tokenstore` and `seitpp`: parse, make one Python call, print.

`main` and `seitpp` are the two programs, which `start` begins; `store`, `tokenizers` and `networks` hold a
file for each command. Options that two commands share come from `options` and `training_options`. A command
may import anything of `tokenstore` and `seitpp_models`; nothing imports a command.

Commands import the library inside their bodies. `--help`, a typo or a wrong path are then answered at once:
torch, zarr and numba, which take seconds, are imported when there is work for them.
"""
