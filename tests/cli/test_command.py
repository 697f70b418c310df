# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A command has a description, an example, --traceback and its function."""

from __future__ import annotations

import argparse

import pytest

from monai_essa.cli.arguments import add_command, add_family


def parser_with(*names: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="program")
    parser.add_argument("--traceback", action="store_true")
    commands = parser.add_subparsers(required=True)
    for name in names:
        add_command(commands, name, lambda _: 7, "say what is there", f"program {name} here")
    return parser


def test_the_function_comes_with_the_arguments() -> None:
    arguments = parser_with("look", "see").parse_args(["see"])
    assert arguments.run(arguments) == 7


@pytest.mark.parametrize(
    ("line", "expected"), [(["see"], False), (["--traceback", "see"], True), (["see", "--traceback"], True)]
)
def test_traceback_is_asked_for_before_or_after_the_command(line: list[str], expected: bool) -> None:
    assert parser_with("see").parse_args(line).traceback is expected


def test_the_description_is_a_sentence_and_the_example_stands_below(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser_with("see").parse_args(["see", "--help"])
    text = capsys.readouterr().out
    assert "\nSay what is there.\n" in text
    assert text.endswith("example:\n  program see here\n")


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser_with("see").parse_args(["see", "--trace"])
    assert "unrecognized arguments: --trace" in capsys.readouterr().err


def test_a_family_asks_for_one_of_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="program")
    family = add_family(parser.add_subparsers(), "data", "work on data")
    add_command(family, "check", lambda _: 0, "check it", "program data check")
    with pytest.raises(SystemExit):
        parser.parse_args(["data"])
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err
