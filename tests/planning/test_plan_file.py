# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the file of a plan."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser

from monai_essa.planning.choices import Choice
from monai_essa.planning.run import plan_text, write_plan

VALUES = {
    "spacing": [0.79, 1.0, 5.0],
    "cache_dir": None,
    "lean": "fast",
    "labels": {"background": 0, "3": 1, "Lunge: links #1": 2, "no": 3, "12:30:10": 4, "1e5": 5},
    "window": (1, (2, None)),
    "dataset_dir": "/data/a folder # with: signs",
    "cache_rate": 1.0,
    "lr": 1e-05,
}


def test_it_reads_back_as_the_values(tmp_path: Path) -> None:
    text = plan_text([Choice("/a/train.yaml", "x")], {key: Choice(value, "why: #1") for key, value in VALUES.items()})
    assert yaml.safe_load(text) == {"config_file": ["/a/train.yaml"]} | VALUES | {"window": [1, [2, None]]}
    assert len(text.splitlines()) == 2 + len(VALUES)
    write_plan(tmp_path / "site.yaml", text)
    assert ConfigParser.load_config_file(str(tmp_path / "site.yaml")) == yaml.safe_load(text)


def test_every_line_has_its_reason() -> None:
    text = plan_text([Choice("train.yaml", "for all")], {"batch_size": Choice(4, "fits")}, ["peak: 1 GB"])
    assert text == "# peak: 1 GB\nconfig_file:\n- train.yaml # for all\nbatch_size: 4 # fits\n"


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\u2029", "\x0c", "\n---\n", "\n...\n"])
def test_no_reason_and_no_text_adds_a_line(end: str, tmp_path: Path) -> None:
    planted = f"CT{end}batch_size: $__import__('pathlib').Path('marker').touch()"
    choices = {"modality": Choice("ct", planted), "name": Choice(planted, "x"), "labels": Choice({planted: 0}, "x")}
    text = plan_text([Choice("train.yaml", planted)], choices, [planted])
    assert yaml.safe_load(text) == {
        "config_file": ["train.yaml"],
        "modality": "ct",
        "name": planted,
        "labels": {planted: 0},
    }
    assert len(text.splitlines()) == 6


def test_what_yaml_does_not_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="^expected plain values that YAML holds under config_file, lr$"):
        plan_text([], {"lr": Choice(float("nan"), "x")})


def test_a_file_that_exists_stays(tmp_path: Path) -> None:
    (tmp_path / "my_site.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="my_site.yaml exists; expected a new file: give another --out"):
        write_plan(tmp_path / "my_site.yaml", "yours")
    assert (tmp_path / "my_site.yaml").read_text(encoding="utf-8") == "mine"
