# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the names of labels and channels."""

from __future__ import annotations

from typing import Any

import pytest

from monai_essa.data.lists.fields import channel_names, class_ids

CODE = "$__import__('pathlib').Path('x').touch()"


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "2": "Milz (links)", "1": "liver"},
        {"background": 0, "liver": 1, "Milz (links)": 2},
        {"background": "0", "liver": "1", "Milz (links)": "2", "both": [1, 2]},
        ["background", "liver", "Milz (links)"],
    ],
)
def test_every_form_gives_ids_by_name_in_order(labels: Any) -> None:
    assert list(class_ids(labels, "dataset.json").items()) == [("background", 0), ("liver", 1), ("Milz (links)", 2)]


@pytest.mark.parametrize("labels", [None, {}, []])
def test_no_names_are_no_ids(labels: Any) -> None:
    assert class_ids(labels, "dataset.json") == {}


@pytest.mark.parametrize(
    "labels",
    [
        "background",
        7,
        {"0": CODE},
        {CODE: 0},
        {"@network": 0},
        {"%x.yaml": 0},
        {"_target_": 0},
        {"a#b": 0},
        {"a\nbatch_size": 0},
        {"a\x85b": 0},
        {"0": "a\u2028b"},
        {"a" * 129: 0},
        {"a": -1},
        {"a": 10**9},
        {"a": True},
        {"a": None},
        {"a": 0, "b": 0},
        {"1": "a", "2": "a"},
        {"0": {"_target_": "os.system"}},
        {"1": ["a"]},
        {"\u0661": "a"},
    ],
)
def test_an_unfit_table_is_one_line_that_names_file_and_field(labels: Any) -> None:
    with pytest.raises(ValueError, match=r"^dataset\.json, field 'labels'") as caught:
        class_ids(labels, "dataset.json, field 'labels'")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("datalist", "names"),
    [
        ({"modality": {"0": "T1", "1": "FLAIR"}}, ["T1", "FLAIR"]),
        ({"channel_names": {"0": "CT"}}, ["CT"]),
        ({"modality": ["T1", "T2"], "channel_names": {"0": "CT"}}, ["T1", "T2"]),
        ({"modality": "CT"}, ["CT"]),
        ({"modality": {}, "channel_names": {"0": "CT"}}, ["CT"]),
        ({}, []),
    ],
)
def test_channels_are_read_in_every_form(datalist: dict[str, Any], names: list[str]) -> None:
    assert channel_names(datalist, "dataset.json") == names


@pytest.mark.parametrize("field", ["modality", "channel_names"])
@pytest.mark.parametrize("value", [f"CT\nbatch_size: {CODE}", "CT\x85x: 1", "CT\u2028x: 1", "C" * 65, 7, ["CT", 1]])
def test_a_channel_that_is_no_short_line_is_refused_with_file_and_field(field: str, value: Any) -> None:
    for form in (value, {"0": value}):
        with pytest.raises(ValueError, match=f"^dataset.json, field '{field}'") as caught:
            channel_names({field: form}, "dataset.json")
        assert str(caught.value).isprintable()
