"""The measures of the house that a machine can take: sizes, signatures, and how docstrings begin.

The directions of imports are import-linter's contracts in `pyproject.toml`, and ruff's pydocstyle rules say
which docstrings there have to be.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.paths import ROOT
from helpers.syntax import nodes

LIBRARY = sorted(path for name in ("tokenstore", "seitpp_models") for path in (ROOT / name).rglob("*.py"))
PRODUCT = LIBRARY + sorted(path for name in ("cli", "benchmarks") for path in (ROOT / name).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8

FRONT_DOORS = {
    "seitpp_models.adapter.run.train_tokenadapt",
    "seitpp_models.evaluation.evaluating.evaluate",
    "seitpp_models.evaluation.on_images.evaluate_images",
    "tokenstore.audit.preview.preview",
    "tokenstore.audit.report.report.report",
    "tokenstore.audit.stats.stats",
    "tokenstore.augment.recipe.__init__",
    "tokenstore.conversion.convert.convert",
    "tokenstore.conversion.dry_run.plan",
    "tokenstore.loading.dataset.__init__",
    "tokenstore.loading.loader.__init__",
    "tokenstore.tokenizers.train.fit.fit_codebook",
    "tokenstore.tokenizers.train.run.train_tokenizer",
    "tokenstore.writing.editing.dedupe.dedupe",
    "tokenstore.writing.editing.partition.split",
    "tokenstore.writing.editing.select.select",
    "tokenstore.writing.export.export.export",
    "tokenstore.writing.merge.merge",
    "tokenstore.writing.recode.recode",
    "tokenstore.writing.write.write",
}
"""The public calls that take more parameters, all but the first few by keyword and with a default."""

RIDDLE = re.compile(r"(What|Of|That|Those|Where|Whether|One that|Which)\b")
"""The beginnings of a docstring that names no subject."""

NO_VERB = re.compile(
    r"(The|An?|One|All|Each|Every|Any|No|How|When|Who|Whose|It|Its|This|These|In|On|At|From|With|As|For|By|To"
    r"|Like|True|False|None|Nothing|Several|Two)\b"
)
"""The beginnings of a function's docstring that say what a thing is, not what the function does."""

RIDDLES = {"found", "held", "hold", "kept", "moved", "there", "told", "wanted"}
"""Names that say what became of a thing, not what it is. A variable of a function may be what was `found`."""

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(files: list[Path]) -> Iterator[tuple[str, Function]]:
    """Yield the functions of files, each with `module.name`."""
    for path in files:
        module = str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
        for node in nodes(path):
            if isinstance(node, Function):
                yield f"{module}.{node.name}", node


def is_decorated(function: Function, pattern: str) -> bool:
    return any(re.search(pattern, ast.unparse(decorator)) for decorator in function.decorator_list)


def is_compiled(function: Function) -> bool:
    return is_decorated(function, r"compiled|jit")


def parameters(function: Function) -> list[str]:
    arguments = function.args
    names = [argument.arg for argument in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
    return [name for name in names if name not in ("self", "cls")]


def docstrings(path: Path) -> Iterator[tuple[str, ast.AST, str]]:
    """Yield where each docstring of a file is, whose it is, and its text."""
    for node in nodes(path):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and (text := ast.get_docstring(node)):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", node, text


def attribute_notes(path: Path) -> Iterator[tuple[str, str]]:
    """Yield where each string below an assignment is, and its text."""
    for node in nodes(path):
        body = getattr(node, "body", None)
        for before, note in itertools.pairwise(body) if isinstance(body, list) else ():
            if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(note, ast.Expr):
                text = getattr(note.value, "value", None)
                if isinstance(text, str):
                    yield f"{path.relative_to(ROOT)}:{note.lineno}", text


def test_a_file_fits_in_the_head() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PRODUCT + TESTS}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


def test_no_two_test_modules_have_one_name() -> None:
    names = sorted(path.name for path in TESTS if path.name.startswith("test_"))
    assert [name for name, following in itertools.pairwise(names) if name == following] == []


def test_a_function_fits_on_a_page() -> None:
    sizes = {
        name: function.end_lineno - function.lineno + 1
        for name, function in functions(PRODUCT)
        if function.end_lineno is not None and not is_compiled(function)
    }
    assert {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}


def test_only_front_doors_take_many_parameters() -> None:
    many = {
        name
        for name, function in functions(PRODUCT)
        if len(parameters(function)) > MAX_PARAMETERS
        and not is_compiled(function)
        and not is_decorated(function, r"\bcommand\(")  # click's: its parameters are the options
    }
    assert many == FRONT_DOORS


def test_no_docstring_begins_as_a_riddle() -> None:
    found = [f"{where}: {text[:60]}" for path in PRODUCT + TESTS for where, _, text in docstrings(path)]
    found += [f"{where}: {text[:60]}" for path in PRODUCT + TESTS for where, text in attribute_notes(path)]
    assert [line for line in found if RIDDLE.match(line.split(": ", 1)[1])] == []


def test_a_functions_docstring_begins_with_a_verb() -> None:
    found = [
        f"{where}: {text[:60]}"
        for path in PRODUCT + TESTS
        for where, node, text in docstrings(path)
        if isinstance(node, Function)
        and not is_decorated(node, r"property$|\.setter$")
        and NO_VERB.match(text)
    ]
    assert found == []


def test_the_library_names_no_option_of_a_command_line() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value[:80]}"
        for path in LIBRARY
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and OPTION.search(node.value)
    ]
    assert found == []


def test_parquet_files_are_opened_by_one_function() -> None:
    # subtle: others would let Arrow's threads hold Python's bytes when the interpreter ends
    openers = {"ParquetFile", "ParquetDataset", "read_table", "read_metadata", "read_schema"}
    found = [
        str(path.relative_to(ROOT))
        for path in LIBRARY
        for node in nodes(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in openers
        and getattr(node.func.value, "id", None) == "pq"
    ]
    assert found == ["tokenstore/parquet_pages.py"]


def names(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield where each name of a file is given, the name, and whether it is one of a function's variables."""
    of_functions = {
        inner
        for outer in nodes(path)
        if isinstance(outer, Function)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.Name)
    }
    for node in nodes(path):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name, node in of_functions
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name, False
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name, False


def test_a_name_says_what_it_is_of() -> None:
    riddles = [
        f"{place}: {name}"
        for path in LIBRARY
        for place, name, is_variable in names(path)
        if name.strip("_") in RIDDLES - ({"found"} if is_variable else set())
    ]
    assert riddles == []
