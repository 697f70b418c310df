# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The program: help at once, one line for an error, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_essa.cli import main
from monai_essa.version import __version__

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    ("data", "datalist"),
    ("data", "check"),
    ("bundles", "list"),
    ("bundles", "copy"),
    ("adapter", "info"),
    ("adapter", "merge"),
    ("adapter", "diff"),
    ("predict",),
    ("run",),
    ("demo",),
]


@pytest.mark.parametrize("command", [(), ("data",), ("bundles",), ("adapter",), *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {' '.join(('monai-essa', *command))} ")
    if command in COMMANDS:
        assert f"example:\n  monai-essa {' '.join(command)}" in text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_options_of_an_example_are_among_those_described(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    described, _, example = capsys.readouterr().out.partition("example:\n")
    passed_on = {"--args_file", "--config_file", "--dataset_dir", "--pretrained"} if command == ("run",) else set()
    options = {word for word in example.split() if word.startswith("--")} - passed_on
    assert {option for option in options if option not in described} == set()


def test_importing_the_command_line_imports_no_monai() -> None:
    script = (
        "import sys, monai_essa.cli; print(*(name for name in ('monai', 'torch', 'ignite') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split() == []


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"monai-essa {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["data"],
        ["nonsense"],
        ["data", "check"],
        ["data", "check", "a.json", "--nonsense"],
        ["bundles", "list", "x"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: monai-essa" in capsys.readouterr().err


def test_an_error_is_one_line_and_exits_with_1(monai_essa, tmp_path: Path) -> None:
    given = monai_essa("data", "check", tmp_path / "none.json")
    assert given.code == 1
    assert given.err.splitlines() == [
        f"monai-essa: {tmp_path / 'none.json'}: no such datalist; `monai-essa data datalist DIR` makes one"
    ]


@pytest.mark.parametrize("before", [True, False])
def test_a_traceback_is_given_where_it_is_asked_for(before: bool, monai_essa, tmp_path: Path) -> None:
    arguments = ["data", "check", tmp_path / "none.json"]
    with pytest.raises(FileNotFoundError, match="no such datalist"):
        monai_essa(*(["--traceback", *arguments] if before else [*arguments, "--traceback"]))


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_essa.cli.bundle_commands.list_bundles", lambda: 1 + "1")
    with pytest.raises(TypeError):
        main(["bundles", "list"])


def test_an_interrupt_exits_quietly_with_130(monai_essa, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("monai_essa.cli.bundle_commands.list_bundles", interrupted)
    given = monai_essa("bundles", "list")
    assert (given.code, given.err) == (130, "monai-essa: interrupted\n")


def test_a_broken_config_is_one_line_with_its_place(monai_essa, tmp_path: Path) -> None:
    config = tmp_path / "broken.yaml"
    config.write_text("{a: 1}\nb: 2\n", encoding="utf-8")
    given = monai_essa("run", "--dry-run", "--config_file", config)
    assert given.code == 1
    assert len(given.err.splitlines()) == 1
    assert "broken.yaml" in given.err and "line 2" in given.err
