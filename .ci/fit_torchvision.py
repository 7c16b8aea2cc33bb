"""Make the torchvision of this environment importable beside a torch of another build.

PyPI's torchvision for Linux is built for CUDA. Beside a CPU build of torch its compiled operators do not
load. Its import then fails, since it describes two of the operators without checking that they exist. The
tests and the demo use none of the operators. `make` runs this script after it has installed the packages: it
declares the two in the environment's own copy of torchvision, and changes nothing if torchvision can be
imported.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

MARK = "# declared by .ci/fit_torchvision.py"
DECLARATIONS = f"""

{MARK}
if not _has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _declared.define(f"{{_name}}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def importable() -> bool:
    """Return whether a fresh interpreter can import torchvision."""
    return not subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode


def declare_operators(extension: Path) -> bool:
    """Append the declarations to torchvision's `extension.py`; return False if they were there already."""
    text = extension.read_text()
    if MARK in text:
        return False
    extension.write_text(text + DECLARATIONS)
    return True


def main() -> None:
    """Repair this interpreter's torchvision if its import fails."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or importable():
        return
    extension = Path(spec.origin).with_name("extension.py")
    if declare_operators(extension) and importable():
        print(f"torchvision's operators do not load beside this torch; declared them in {extension}")
    else:
        sys.exit(
            "torchvision cannot be imported, and its operators are not the reason: try `import torchvision`"
        )


if __name__ == "__main__":
    main()
