# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What comes from outside is taken as data of a declared kind, or refused in one line."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest

from monai_essa.outside import (
    NAME,
    Choice,
    Flag,
    ListOf,
    MapOf,
    Nullable,
    Number,
    Record,
    Text,
    check_config_value,
    check_pattern,
    inside,
    math_free,
    printable,
    shown,
)

CODE = "$__import__('pathlib').Path('x').touch()"


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (Text(NAME), "site_a (2)"),
        (Text(), ""),
        (Number(0, 1), 0.5),
        (Number(1, 9, whole=True), 9.0),
        (Flag(), False),
        (Choice((1, "a", None)), "a"),
        (Nullable(Number()), None),
        (ListOf(Number()), [1, 2]),
        (MapOf(Number()), {"a": 1}),
        (Record({"a": Flag()}, {"b": Flag()}), {"a": True}),
    ],
)
def test_fitting_value_is_returned(check: Any, value: Any) -> None:
    assert check.check(value, "here") == value


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (Number(), 10**400),
        (Number(whole=True), -(10**400)),
        (Text(NAME), "../a"),
        (Text(NAME), CODE),
        (Text(NAME), "a\nb"),
        (Text(NAME, longest=3), "abcd"),
        (Text(), "a\u2028b"),
        (Text(), "a\x85b"),
        (Text(), b"a"),
        (Number(), True),
        (Number(), math.nan),
        (Number(), "1"),
        (Number(0, 1), 2),
        (Number(whole=True), 1.5),
        (Flag(), "false"),
        (Flag(), 1),
        (Choice((1,)), True),
        (ListOf(Number()), "12"),
        (ListOf(Number(), longest=1), [1, 2]),
        (MapOf(Number()), {"a\nb": 1}),
        (MapOf(Number()), [1]),
        (Record({"a": Flag()}), {}),
        (Record({"a": Flag()}), {"a": True, "b": 1}),
        (Record({"a": Flag()}), {"a": 1}),
        (Record({"a": Flag()}), None),
    ],
)
def test_unfit_value_is_refused_in_one_line_that_names_the_place(check: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="here") as caught:
        check.check(value, "here")
    assert "\n" not in str(caught.value)


def test_whole_number_of_a_browser_becomes_an_integer() -> None:
    assert isinstance(Number(whole=True).check(3.0, "here"), int)


@pytest.mark.parametrize(
    "value",
    [CODE, "@network", "%configs/train.yaml", " $1", {"_target_": "os.system"}, {"a": [CODE]}, {"a#b": 1}, {1: 2}],
)
def test_what_a_config_parser_would_run_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="device"):
        check_config_value(value, "device")


def test_plain_config_values_stay() -> None:
    value = {"sites": ["a", "cuda:0", "x$y"], "n": 3, "rate": None}
    assert check_config_value(value, "request") == value


@pytest.mark.parametrize(
    "pattern", [r"((encoder|decoder)\d+|up_layers)\..*", r"(?!vit\.).*", "head.*", r"[)*+]a{2}b?", ""]
)
def test_patterns_in_use_are_taken(pattern: str) -> None:
    assert check_pattern(pattern, "also_train") == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a|a)*b",
        "(a*){9}b",
        r"(a)\1",
        ".*.*.*.*.*x",
        "a{2,}" * 5,
        "(",
        "x" * 1001,
        5,
        "(?P<n>a)(?P=n)",
        "(a|a)" * 30,
        "a?" * 30,
        "(?x)(a+) +b",
        "(?i-x:a)(?ix:(a+) +)b",
    ],
)
def test_patterns_that_may_never_end_are_refused(pattern: Any) -> None:
    with pytest.raises(ValueError, match="also_train"):
        check_pattern(pattern, "also_train")


def test_worst_pattern_that_is_taken_ends_soon() -> None:
    pattern = check_pattern(".*.*.*.*x", "also_train")
    begun = time.process_time()
    assert re.fullmatch(pattern, "a" * 64) is None
    assert time.process_time() - begun < 20  # a pattern with a repeated group takes years


def test_path_stays_below_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    (folder / "deep").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    assert inside(folder, "deep/a.nii", "image") == folder / "deep" / "a.nii"
    for name in ("", "../a", "deep/../../a", str(tmp_path / "a"), "out/a", "..\\a", "a\x00b"):
        with pytest.raises(ValueError, match="image"):
            inside(folder, name, "image")


def test_matplotlib_reads_no_mathematics() -> None:
    assert math_free("$x_{$\n") == r"\$x_{\$\\n"


@pytest.mark.parametrize("character", ["\n", "\r", "\x85", "\u2028", "\u2029", "\x1b", "\u202e", "\ud800", "\x00"])
def test_printable_text_is_one_line_to_every_reader(character: str) -> None:
    line = printable(f"CT{character}batch_size: ä1")
    assert line.isprintable()
    assert line.startswith("CT\\")
    assert line.endswith("batch_size: ä1")


@pytest.mark.parametrize("value", ["a\nb", "\u202e" + "x" * 500, b"\x00", [1] * 1000, {"a": "\n"}, [10**5000]])
def test_shown_is_one_short_printable_line(value: Any) -> None:
    line = shown(value)
    assert line.isprintable()
    assert len(line) <= 80
