"""The refusal of pickles: files that other projects keep their codes in, and that can run any program."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["PICKLES", "pickle_advice"]

PICKLES = (".pth", ".pt", ".pkl", ".pickle")
"""The endings of pickles, in lower case."""

_NUMBERED = re.compile(r"[0-9]{7}\.pth")
_LOAD = "torch.load(p,weights_only=False)"
_LINE = 'python -c "import numpy as np,torch;from pathlib import Path;{work}" '
_TENSORS = (
    f"x=[np.asarray({_LOAD}) for p in sorted(Path('FOLDER').rglob('*{{ending}}'))];"
    "np.save('train.npy',np.stack(x))"
)
_PAIRS = (
    f"x=[{_LOAD} for p in sorted(Path('FOLDER').glob('*.pth'))];"
    "np.save('train.npy',np.stack([np.asarray(c) for c,_ in x]));"
    "np.save('train-labels.npy',np.array([int(y) for _,y in x]))"
)
_IMAGES = (
    "np.save('train.npy',np.stack([np.asarray(torch.load(p)['images']) "
    "for p in sorted(Path('FOLDER').glob('*.pth'))]))"
)


def pickle_advice(names: Iterable[str], folder: str = "") -> str | None:
    """Return why pickles are not read, and the line that converts them; None if no name is that of one.

    `names` are those of files or of members, `folder` is the name of the folder that they lie in. The line is
    that of Halton-MaskGIT (pairs of codes and label), of Emu3 (a folder `feature` of dicts), or of open-muse
    and others (a tensor a file, unpacked from its tar files).
    """
    found = next((name for name in names if name.lower().endswith(PICKLES)), None)
    if found is None:
        return None
    if _NUMBERED.fullmatch(found):
        whose, work = "Halton-MaskGIT's layout", _PAIRS
    elif folder == "feature":
        whose, work = "Emu3's layout, whose grids have to be of one size", _IMAGES
    else:
        ending = found[found.rindex(".") :]
        whose, work = (
            "a tensor a file, as open-muse packs them into tar files",
            _TENSORS.format(ending=ending),
        )
    return (
        f"pickles, such as {found!r}, which can run any program and are never opened. If you trust who "
        f"made them as you trust a program, this writes arrays that can be converted (for {whose}): "
        f"{_LINE.format(work=work).strip()}"
    )
