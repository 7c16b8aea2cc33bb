"""A process that runs one cell, which `schedule` starts: `worker.py CELL.json`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evidence.schedule import work_on
from tokenstore.errors import TokenstoreError

if __name__ == "__main__":
    try:
        work_on(Path(sys.argv[1]))
    except TokenstoreError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
