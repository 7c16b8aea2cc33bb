"""The folders that look like classes and are none: the folder of all images, and that of the label maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.names import printable

__all__ = ["folders_of_images", "masks_way", "refuse_label_maps"]

_IMAGES = frozenset(
    ("images", "image", "imgs", "img", "jpegimages", "jpegs", "jpgs", "photos", "pictures", "pics", "frames")
)
"""The usual names of a folder of images, in lower case."""
_LABEL_MAPS = frozenset(
    ("masks", "mask", "labels", "label", "annotations", "labelmaps", "gt", "segmentationclass")
)
"""The usual names of a folder of label maps, in lower case."""


def folders_of_images(classes: Mapping[str, Collection[bytes]], where: str) -> dict[str, bytes]:
    """Return the splits whose only folder is that of all images, and no class, with the folder's name.

    `classes` are the names of each split's folders. Raises SourceError for a split whose only folder is no
    class of the other splits and has no usual name for a folder of images.
    """
    folders = {}
    for split, names in classes.items():
        several = [more for other, more in classes.items() if other != split and len(more) > 1]
        others = {name for more in several for name in more}
        if len(names) != 1 or others.issuperset(names):
            continue
        (name,) = names
        if printable(name).lower() in _IMAGES:
            folders[split] = name
        elif others:
            bare = Parameter("no_labels", True)
            raise SourceError(
                f"{where}: split {split} has one folder, {printable(name)!r}, which is no class of another "
                f"split. If it holds all images of the split, give their labels in a labels file, or leave "
                f"labels out by {bare}",
                parameters=[bare],
            )
    return folders


def refuse_label_maps(
    classes: Mapping[str, Collection[bytes]], where: str, *, in_splits: bool = True, packed: bool = False
) -> None:
    """Raise SourceError if the only folders are those of images and of label maps.

    The folders lie `in_splits`, or directly in the source, or `packed` in tar files, which must be unpacked
    before the label maps can be given.
    """
    names = {printable(name) for of_split in classes.values() for name in of_split}
    images = {name for name in names if name.lower() in _IMAGES}
    maps = sorted(name for name in names if name.lower() in _LABEL_MAPS)
    if images and maps and len(images) + len(maps) == len(names):
        if packed:
            way = Parameter("masks")
            text = f"Unpack the tar files, convert the images, and give the label maps by {way}"
        else:
            text, way = masks_way(where, min(images), maps[0], in_splits=in_splits)
        ways = way, Parameter("no_labels", True)
        raise SourceError(
            f"{where}: folders {min(images)!r} and {maps[0]!r} look like images and label maps, not like "
            f"classes. {text}, or take all as images by {ways[1]}",
            parameters=ways,
        )


def masks_way(where: str, images: str, maps: str, *, in_splits: bool) -> tuple[str, Parameter]:
    """Return how to convert a folder of images with one of label maps, in words, and the parameter named.

    Both lie in each split, or directly in the source `where`.
    """
    if in_splits:
        way = Parameter("masks", maps)
        return f"Give the label maps by {way}", way
    root = where.rstrip("/")
    way = Parameter("masks", f"{root}/{maps}")
    return f"Convert {root}/{images}, and give the label maps by {way}", way
