"""Both programs: an option's name has one meaning, help has examples and imports nothing heavy."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from collections import defaultdict

import click
import pytest
from click.testing import CliRunner
from helpers.commands import PROGRAMS, all_commands
from helpers.waiting import HANG
from tokenstore_cli.main import spoken

from tokenstore.errors import Parameter, SourceError

COMMANDS = all_commands()
MOST_LINES = 40
HEAVY = ("torch", "timm", "torchvision", "zarr", "numba", "pyarrow", "accelerate", "torchmetrics")


def options_by_name() -> dict[str, dict[str, click.Option]]:
    """Return for each option's name its options by command."""
    found: dict[str, dict[str, click.Option]] = defaultdict(dict)
    for command, entry in COMMANDS.items():
        for parameter in entry.params:
            if isinstance(parameter, click.Option):
                for name in (*parameter.opts, *parameter.secondary_opts):
                    found[name][command] = parameter
    return found


OPTIONS = options_by_name()
SHARED = sorted(name for name, users in OPTIONS.items() if len(users) > 1)


def kind(option: click.Option) -> tuple[object, ...]:
    """Return the parts that options of one name share: type, metavar, and whether they are flags."""
    return type(option.type).__name__, option.metavar, option.is_flag


def meaning(option: click.Option) -> str:
    """Return the part of a help text that says what an option is, without a command's own addition."""
    text = re.split(r"[.:;,]", str(option.help))[0]
    return text.split()[0] if option.opts == ["--resume"] else text  # which names the command's own work


@pytest.mark.parametrize("name", SHARED)
def test_an_option_has_one_type_and_one_meaning_in_all_commands(name: str) -> None:
    kinds = {command: kind(option) for command, option in OPTIONS[name].items()}
    assert len(set(kinds.values())) == 1, kinds
    meanings = {command: meaning(option) for command, option in OPTIONS[name].items()}
    assert len(set(meanings.values())) == 1, meanings


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_help_gives_an_option_one_default(name: str) -> None:
    for command, option in OPTIONS[name].items():
        defaults = str(option.help).count("[default: ") + bool(option.show_default)
        assert defaults <= 1, (command, option.help)


@pytest.mark.parametrize("name", SHARED)
def test_a_name_has_the_same_other_spellings_in_all_commands(name: str) -> None:
    assert len({tuple(option.opts) for option in OPTIONS[name].values()}) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_of_the_command(command: str) -> None:
    text = inspect.cleandoc(COMMANDS[command].help or "")
    assert "Examples:" in text
    assert f"\n  {command}" in text


@pytest.mark.parametrize("words", [*PROGRAMS, *COMMANDS])
def test_help_shows_each_example_on_a_line_of_its_own(words: str) -> None:
    program, *rest = words.split()
    shown = CliRunner().invoke(PROGRAMS[program], [*rest, "--help"]).output.splitlines()
    examples = re.findall(rf"^ *{program} .+$", (COMMANDS | PROGRAMS)[words].help or "", re.MULTILINE)
    assert examples
    assert [line.strip() for line in shown if line.strip() in map(str.strip, examples)] == [
        example.strip() for example in examples
    ]


@pytest.mark.parametrize("words", [*PROGRAMS, *COMMANDS])
@pytest.mark.parametrize("width", [60, 80, 81])
def test_help_breaks_no_name_at_its_hyphens(words: str, width: int) -> None:
    program, *rest = words.split()
    result = CliRunner().invoke(PROGRAMS[program], [*rest, "--help"], terminal_width=width)
    shown = result.output.splitlines()
    assert [line for line in shown if re.search(r"\w-$", line)] == []
    assert max(map(len, shown)) > width / 2
    assert result.output.isascii()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is_and_what_it_takes(command: str) -> None:
    for parameter in COMMANDS[command].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.help[0].isupper(), parameter.help
            choices = isinstance(parameter.type, click.Choice)
            assert parameter.metavar or parameter.is_flag or choices, parameter.name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_choice_gets_a_suggestion(command: str) -> None:
    for parameter in COMMANDS[command].params:
        for choice in parameter.type.choices if isinstance(parameter.type, click.Choice) else ():
            for misspelt in (choice.upper(), choice[:1] + choice[2:], f"{choice}s"):
                if misspelt not in parameter.type.choices:
                    with pytest.raises(click.BadParameter, match=rf"\. Did you mean .*'{re.escape(choice)}'"):
                        parameter.type.convert(misspelt, parameter, None)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses_calls_and_prints_in_few_lines(command: str) -> None:
    callback = inspect.unwrap(COMMANDS[command].callback)  # type: ignore[arg-type]
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(callback))).body
    assert isinstance(function, ast.FunctionDef)
    first = function.body[1] if ast.get_docstring(function) else function.body[0]
    assert int(function.end_lineno or 0) - first.lineno + 1 < MOST_LINES


def test_help_of_no_command_imports_anything_heavy() -> None:
    program = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from helpers.commands import PROGRAMS, all_commands\n"
        f"heavy = {HEAVY!r}\n"
        "for words in [*PROGRAMS, *all_commands()]:\n"
        "    program, *rest = words.split()\n"
        "    result = CliRunner().invoke(PROGRAMS[program], [*rest, '--help'])\n"
        "    assert result.exit_code == 0, (words, result.output)\n"
        "    found = [name for name in heavy if name in sys.modules]\n"
        "    assert not found, f'{words} --help imported {found}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_option_of_convert_alone_is_named_as_such_by_other_commands() -> None:
    flag = Parameter("no_labels", True)
    error = SourceError(f"take all as images by {flag}", parameters=[flag])
    program = PROGRAMS["seitpp"]
    with click.Context(program) as outer:
        for command in (
            "evaluate",
            "no such command",
        ):
            outer.invoked_subcommand = command
            ends = " of `tokenstore convert`" if command == "evaluate" else ""
            assert spoken(error) == f"take all as images by --no-labels{ends}"
        with click.Context(COMMANDS["seitpp evaluate"], parent=outer):
            assert spoken(error) == "take all as images by --no-labels of `tokenstore convert`"
    with click.Context(COMMANDS["tokenstore convert"]):
        assert spoken(error) == "take all as images by --no-labels"
