"""The results of cells as JSON lines, one a cell, with the machine, the commit and the time."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from evidence.cells import Cell, EvidenceError, Workplace, in_order
from tokenstore.files import write_file
from tokenstore.machine import available_cores
from tokenstore.networks.records import versions

__all__ = [
    "RESULTS",
    "Result",
    "add_result",
    "code_commit",
    "finished",
    "read_results",
    "refuse_other_inputs",
    "union",
]

RESULTS = "results.jsonl"
"""The file of all results in the folder of a table's work."""
Result = Mapping[str, Any]
"""A result: the key and names of a cell, its figures, bytes, samples and seconds, and where it was made."""
_LIBRARIES = ("torch", "timm", "numpy")


def read_results(path: Path) -> dict[str, Result]:
    """Return the results in a file by the keys of their cells; none if there is no file.

    Of two results of a key the later one counts. Raises EvidenceError for a line that is no result.
    """
    results: dict[str, Result] = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            result = json.loads(line)
            results[result["key"]] = result
        except (ValueError, KeyError, TypeError) as error:
            raise EvidenceError(
                f"{path}, line {number}: expected a result in JSON, found {line[:80]!r}; remove the line, "
                "and its cell runs again"
            ) from error
    return results


def add_result(path: Path, result: Result) -> None:
    """Add a result to a file, which is replaced as a whole."""
    before = path.read_bytes() if path.exists() else b""
    write_file(path, before + json.dumps(result).encode() + b"\n")


def finished(cell: Cell, work: Workplace, facts: Mapping[str, Any], commit: str) -> Result:
    """Return the result of a cell from the facts that its kind gives, and the commit that it began with."""
    return {
        "key": cell.key,
        **vars(cell.names),
        "kind": cell.kind,
        **facts,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": _machine(work),
        "versions": versions(_LIBRARIES),
        "inputs": _digests(cell, work),
        "decisions": cell.decisions,
        "needs": {part: needed.key for part, needed in cell.needs.items()},
    }


def refuse_other_inputs(cell: Cell, work: Workplace, result: Result, where: Path) -> None:
    """Raise EvidenceError if a result was made from a file of another content than an input now has."""
    now = _digests(cell, work)
    for name, digest in result.get("inputs", {}).items():
        if now.get(name, digest) != digest:
            raise EvidenceError(
                f"{where}: the result of {cell.names} was made from another file {{{name}}} than "
                f"{work.inputs[name]}; give that one, or work in another folder"
            )


def _digests(cell: Cell, work: Workplace) -> dict[str, str]:
    """Return digests of the inputs of a cell, and of those that it needs, that are files."""
    text = json.dumps([each.decisions for each in in_order([cell])])
    files = {name: Path(path) for name, path in work.inputs.items() if f"{{{name}}}" in text}
    digests = {}
    for name, path in sorted(files.items()):
        if path.is_file():
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return digests


def code_commit() -> str:
    """Return the commit of the code, with a + if files differ from it; empty outside a repository."""
    where = Path(__file__).parent
    try:
        commit = _git(where, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(where, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(where: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _machine(work: Workplace) -> dict[str, Any]:
    """Return the processor, its cores, and the device and threads of the work."""
    try:
        known = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        known = None
    facts = {
        "processor": known[1] if known else platform.processor() or platform.machine(),
        "cores": available_cores(),
        "threads": work.threads,
        "device": work.device or "cpu",
    }
    if (work.device or "").startswith("cuda"):
        facts["device"] = torch.cuda.get_device_name(work.device)
    return facts


def union(files: Iterable[Path]) -> dict[str, Result]:
    """Return the results of several files by key; of two results of a key the later file's counts."""
    results: dict[str, Result] = {}
    for path in files:
        results |= read_results(path)
    return results
