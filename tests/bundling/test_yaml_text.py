# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What is written is what MONAI's YAML reader reads, and no text adds a line."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ruamel.yaml.comments import CommentedMap

from monai_essa.bundling.yaml_text import commented, yaml_node, yaml_text

ENDS = ["\n", "\r", "\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\n---\n", "\n...\n", "\n\n\n"]


@pytest.mark.parametrize(
    "value",
    [
        "yes",
        "0o7",
        "1e5",
        "12:30:10",
        "=",
        "~",
        "",
        " a ",
        "# a",
        "- a",
        "&a",
        "*a",
        "!t",
        "%a",
        "@a",
        "a: b",
        "'",
        '"',
        "{",
        "a\tb",
        "\ufeffa",
        "\U0001f600",
        "Größe",
        1e-05,
        10**20,
        float("inf"),
        None,
        True,
        [],
        {},
        [[1, None], {"a": "b c"}],
        {"no": {"1": [1.5]}},
        *[f"a{end}b: 1" for end in ENDS],
    ],
)
def test_a_value_is_one_line_that_reads_back(value: Any) -> None:
    document = CommentedMap({"key": yaml_node(value), "names": yaml_node({str(value): [value]})})
    text = yaml_text(document)
    assert yaml.safe_load(text) == {"key": value, "names": {str(value): [value]}}
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize("end", ENDS)
def test_a_comment_stays_one(end: str) -> None:
    document = CommentedMap({"a": 1, "b": yaml_node([1])})
    for key in ("a", "b"):
        commented(document, key, f"why{end}c: 1")
    text = yaml_text(document)
    assert yaml.safe_load(text) == {"a": 1, "b": [1]}
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize("value", [float("nan"), object(), 1j])
def test_what_yaml_does_not_hold_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(ValueError, match="^expected plain values that YAML holds under key$"):
        yaml_text(CommentedMap({"key": yaml_node(value)}))
