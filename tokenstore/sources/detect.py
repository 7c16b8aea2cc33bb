from tokenstore.sources.imagefolder import open_imagefolder

KINDS = ()


def open_source(src, kind=None, *, labels=None):
    return open_imagefolder(src, labels)
