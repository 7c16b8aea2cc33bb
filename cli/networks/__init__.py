"""The commands of `seitpp`, a file each: training and evaluation of networks, and training of TokenAdapt."""
