# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Entries of a YAML text are replaced; all else stays as it was written."""

from __future__ import annotations

import pytest
import yaml

from monai_essa.bundling.folder import bundle_folder, list_bundles
from monai_essa.bundling.yaml_text import config_entries, entry_text, replace_entries

CONFIG = """\
# What it does.
imports:
- $import torch

# ---- what a site sets ----
img_size: [96, 96] # voxels
# of AdamW
lr: 1.0e-3
net:
  depth: 2
  # a comment inside
  width: 4

train#dataset: null
"""
SHIPPED = [path for name in list_bundles() for path in sorted((bundle_folder(name) / "configs").glob("*.yaml"))]


def test_an_entry_has_the_comment_above_it_but_no_heading() -> None:
    entries = config_entries(CONFIG)
    assert list(entries) == ["imports", "img_size", "lr", "net", "train#dataset"]
    assert entries["lr"] == "# of AdamW\nlr: 1.0e-3\n"
    assert entries["img_size"] == "img_size: [96, 96] # voxels\n"
    assert entries["net"] == "net:\n  depth: 2\n  # a comment inside\n  width: 4\n"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_the_entries_are_those_that_yaml_reads(path) -> None:
    text = path.read_text(encoding="utf-8")
    entries = config_entries(text)
    assert {key: yaml.safe_load(entry)[key] for key, entry in entries.items()} == yaml.safe_load(text)


def test_replacing_nothing_changes_nothing() -> None:
    assert replace_entries(CONFIG, {}) == CONFIG
    assert replace_entries(CONFIG, config_entries(CONFIG)) == CONFIG


def test_a_replaced_entry_takes_its_comment_with_it_and_leaves_the_others() -> None:
    changed = replace_entries(CONFIG, {"lr": "lr: 2.0\n"})
    assert changed == CONFIG.replace("# of AdamW\nlr: 1.0e-3\n", "lr: 2.0\n")


def test_a_new_entry_goes_to_the_end() -> None:
    assert replace_entries(CONFIG, {"+train#handlers": "+train#handlers: []\n"}) == CONFIG + "+train#handlers: []\n"


@pytest.mark.parametrize(
    "value",
    [
        1,
        1e-05,
        0.5,
        True,
        None,
        "text",
        "$len(@labels)",
        "a: b # c",
        [1, [2.0, "x"]],
        {"background": 0, "ü": 1},
        "1e-3",
        {"yes": 1, "a\nlr": 2, "a\x85lr: 3": "b\u2028lr: 4"},
        "a\nlr: $print(1)",
    ],
)
def test_what_is_written_is_what_yaml_reads(value: object) -> None:
    text = entry_text("key", value)
    assert len(text.splitlines()) == 1
    assert yaml.safe_load(text) == {"key": value}


def test_an_entry_that_holds_another_is_refused() -> None:
    with pytest.raises(ValueError, match="^expected entries that stand for themselves under lr$"):
        replace_entries(CONFIG, {"lr": "lr: 2.0\nbatch_size: 1\n"})
