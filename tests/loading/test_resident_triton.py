"""Streams of the context codec decoded by Triton: the same codes and refusals as on the processor.

Triton's kernel runs in its interpreter, which has to be asked for before Triton is imported: so in a process
of its own, which is this file run as a script.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.resident_models import Case, any_streams, check_alike, needs_triton

from tokenstore.errors import CodecError

# For Triton's interpreter, which takes some 20 ms a position.
SMALL_CASES = [
    Case((1,), (5,)),
    Case((2,), (6,), contexts=2),
    Case((5,), (2, 2, 2), contexts=3),
    Case((32,), (2, 2), contexts=2),
    Case((391,), (2, 3), contexts=2),
    Case((391,), (2, 3), contexts=2, logit_shift=0, extreme=True),
    Case((5000,), (1, 1, 2), contexts=2),
    Case((5, 391, 1, 33), (4, 1, 2), contexts=1),
]


def in_interpreter() -> None:
    """Compare Triton's kernel with the processor's decoder; print for each case the first fault, or null."""
    for case in SMALL_CASES:
        try:
            valid, _, _, *others = any_streams(case, 1)
            refused = check_alike(case, [valid, *others], "triton")
            wrong = None if refused or case.sizes == (1,) else "nothing was refused"
        except (AssertionError, CodecError) as error:
            wrong = str(error)
        print(json.dumps({str(case): wrong}), flush=True)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str | None]:
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    return found


@pytest.mark.thorough
@needs_triton
@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_triton_decodes_and_refuses_as_the_processor_does(
    case: Case, interpreted: dict[str, str | None]
) -> None:
    assert interpreted[str(case)] is None


@pytest.mark.thorough
@needs_triton
def test_the_kernel_compiles_and_no_code_is_loaded_before_its_store_is_seen(tmp_path: Path) -> None:
    """Find the first of two stores to global memory, a code's; then a barrier; then the next position."""
    script = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tokenstore.loading.resident.context_triton import _decode

wide = {"offsets": "*i64", "lengths": "*i64", "planes": "i32", "plane_length": "i32"}
bytes_ = {"pool": "*u8", "rows": "*i8", "past": "*i8", "weights": "*i8"}
fixed = {"contexts": 10, "halves": 2}
constants = dict.fromkeys(fixed, "constexpr")
types = {name: (wide | bytes_ | constants).get(name, "*i32") for name in _decode.arg_names}
options = {"num_warps": 1, "enable_fp_fusion": False}
for architecture in (80, 90):
    compiled = compile(ASTSource(_decode, types, fixed), GPUTarget("cuda", architecture, 32), options)
    print(compiled.asm["ptx"], "ENDS")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *compiled, _ = done.stdout.split("ENDS")
    assert len(compiled) == 2
    for text in compiled:
        after = text.split("st.global.b32")[1]
        assert re.search(r"^\s*bar\.", re.split(r"\bbra\b", after)[0], re.MULTILINE)


if __name__ == "__main__":
    in_interpreter()
