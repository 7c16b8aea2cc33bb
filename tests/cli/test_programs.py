"""Both programs: typos, completion, commands of other packages."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tokenstore_cli.main import cli as tokenstore
from tokenstore_cli.seitpp import cli as seitpp


@pytest.mark.parametrize(
    ("program", "words", "answer"),
    [
        (tokenstore, ["infoo"], "No such command 'infoo'. Did you mean 'info'?"),
        (seitpp, ["finetun", "x"], "No such command 'finetun'. Did you mean 'finetune'?"),
        (tokenstore, ["info", "--jsn", "x"], "No such option '--jsn'. Did you mean '--json'?"),
        (
            tokenstore,
            ["reconstruct", "x", "-1", "--splt"],
            "No such option '--splt'. Did you mean '--split'?",
        ),
    ],
)
def test_a_typo_is_answered_with_similar_names(program: click.Group, words: list[str], answer: str) -> None:
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 2
    assert answer in result.output


def test_a_command_that_resembles_none_is_refused_without_a_suggestion() -> None:
    result = CliRunner().invoke(tokenstore, ["xyzzy"])
    assert result.exit_code == 2
    assert "No such command 'xyzzy'.\n" in result.output


@pytest.mark.parametrize("program", [tokenstore, seitpp])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_completes_the_program(program: click.Group, shell: str) -> None:
    result = CliRunner().invoke(program, ["completion", shell])
    assert result.exit_code == 0
    assert f"_{str(program.name).upper()}_COMPLETE={shell}_complete" in result.output


def test_a_shell_is_offered_commands_options_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(words: str, place: int) -> str:
        request = {"_TOKENSTORE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        return CliRunner().invoke(tokenstore, env=request).output

    assert "plain,verify" in offered("tokenstore ver", 1)
    assert "plain,--json" in offered("tokenstore info --js", 2)
    assert offered("tokenstore info pho", 2).startswith("file,")


def test_another_package_adds_a_command_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shouting.py").write_text(
        "import click\n"
        "class Context(click.Context):\n"
        "    def said(self, word):\n"
        "        click.echo(word.upper())\n"
        "class Command(click.Command):\n"
        "    context_class = Context\n"
        "@click.command(cls=Command)\n"
        "@click.argument('word')\n"
        "@click.pass_context\n"
        "def shout(context, word):\n"
        "    '''Say WORD loudly.'''\n"
        "    context.said(word)\n"
    )
    facts = tmp_path / "shouting-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[tokenstore.commands]\nshout = shouting:shout\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(tokenstore.__dict__, "added", raising=False)
    try:
        assert "Say WORD loudly." in CliRunner().invoke(tokenstore, ["--help"]).output
        assert CliRunner().invoke(tokenstore, ["shout", "hello"]).output == "HELLO\n"
    finally:
        del tokenstore.__dict__["added"]
        sys.modules.pop("shouting", None)
