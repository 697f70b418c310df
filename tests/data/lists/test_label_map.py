# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for ids: what a datalist calls them, and which voxel values stand for them."""

from __future__ import annotations

from typing import Any

import pytest

from monai_essa.data.lists.fields import check_label_map, label_ids, mapped_id


@pytest.mark.parametrize(
    ("value", "number"),
    [(255.0, 1.0), (254.9995, 1.0), (4.0, 3.0), (0.99999994, 1.0), (2.0, 2.0), (0.5, 0.5), (-1, -1)],
)
def test_values_stand_for_ids(value: float, number: float) -> None:
    assert mapped_id(value, check_label_map({"255": 1, 4: 3}, "label_map")) == number


def test_no_table_is_an_empty_one() -> None:
    assert check_label_map(None, "label_map") == {}


@pytest.mark.parametrize(
    "table", [[1], "255=1", {"x": 1}, {"nan": 1}, {255: -1}, {255: 1.5}, {255: True}, {255: "1"}, {255: 1, "255": 2}]
)
def test_what_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(ValueError, match="^d.json, field 'label_map': ") as error:
        check_label_map(table, "d.json, field 'label_map'")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "bg", "1": "a", "2": "b"},
        {"bg": 0, "a": 1, "b": 2},
        {"bg": "0", "a": "1", "b": "2"},
        {0: "bg", 1: "a", 2: "b"},
        ["bg", "a", "b"],
    ],
)
def test_every_way_to_write_names_and_ids_is_read(labels: Any) -> None:
    assert label_ids(labels, "labels") == {"bg": (0,), "a": (1,), "b": (2,)}


def test_a_region_has_several_ids() -> None:
    assert label_ids({"background": 0, "whole": [1, "2"], "core": 2}, "labels")["whole"] == (1, 2)
    assert label_ids(None, "labels") == {}


@pytest.mark.parametrize(
    "labels",
    ["organ", 3, {"a": None}, {"a": -1}, {"a": 1.5}, {"a": []}, {"a": [None]}, [1], [["a"]], {"a\nb": 1}, {"1": {}}],
)
def test_other_labels_are_refused_in_one_line(labels: Any) -> None:
    with pytest.raises(ValueError, match="^d.json, field 'labels'") as error:
        label_ids(labels, "d.json, field 'labels'")
    assert "\n" not in str(error.value)
