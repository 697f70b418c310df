# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for what each field of a datalist may hold."""

from __future__ import annotations

from typing import Any

import pytest

from monai_essa.data.lists.fields import check_fields, check_item, unread_fields

NAN = float("nan")


def test_the_fields_of_public_lists_are_taken() -> None:
    check_fields(
        {
            "name": "LiTS",
            "description": "Two\nlines.",
            "licence": "CC-BY-SA 4.0",
            "release": 1.0,
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "channel_names": ["CT", "PET"],
            "labels": {"0": "background"},
            "label_map": {"255": 1},
            "numTraining": 131,
            "training": [{"image": "a"}],
            "source": {"training": []},
            "authors": ["A", "B"],
            "extra": {"site": [1, None, True]},
        },
        "d.json",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("training", "a.nii"),
        ("validation", 3),
        ("test", None),
        ("labels", "organ"),
        ("label_map", [1]),
        ("modality", 3),
        ("modality", "CT\ncheckpoint: $x"),
        ("modality", {"0": "CT\u2028"}),
        ("channel_names", {"0": ["CT"]}),
        ("name", ["a"]),
        ("seed", 1.5),
        ("numTraining", "many"),
        ("file_ending", "/etc"),
        ("release", NAN),
        ("source", {"labels": 3}),
        ("source", {"training": "a"}),
        ("description", "x\x1b[2J"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^d\.json, (field )?'{field}'") as error:
        check_fields({field: value}, "d.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["train\x1b[2J", "a\nb", "a\x85b", "\ud800", "x" * 1001])
@pytest.mark.parametrize("value", [[{"image": "a"}], {"training": []}, 3])
def test_a_name_that_is_no_line_is_refused(name: str, value: Any) -> None:
    for content in ({name: value}, {"source": {name: value}}):
        with pytest.raises(ValueError, match="^d.json, .*the name of a field: expected text") as error:
            check_fields(content, "d.json")
        assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "item",
    [
        "a.nii",
        {"image": "$x/@y/%z.nii", "label": 1, "patient": 7, "fold": "0"},
        {"image": ["a.nii", "b.nii"], "label": [0, 1], "patient": "p 7", "note": {"any": NAN}},
    ],
)
def test_items_of_every_kind_are_taken(item: Any) -> None:
    assert "image" in check_item(item, "d.json: training item 0")


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (3, ""),
        ([], ""),
        ({"image": 3}, ".image"),
        ({"image": None}, ".image"),
        ({"image": ""}, ".image"),
        ({"image": []}, ".image"),
        ({"image": ["a", 3]}, ".image"),
        ({"image": "a\nb"}, ".image"),
        ({"image": "a\ud800"}, ".image"),
        ({"image": "a" * 5000}, ".image"),
        ({"image": "a", "label": None}, ".label"),
        ({"image": "a", "label": ""}, ".label"),
        ({"image": "a", "label": NAN}, ".label"),
        ({"image": "a", "label": True}, ".label"),
        ({"image": "a", "label": {"x": 1}}, ".label"),
        ({"image": "a", "label": [None]}, ".label"),
        ({"image": "a", "patient": ""}, ".patient"),
        ({"image": "a", "patient": NAN}, ".patient"),
        ({"image": "a", "patient": ["p"]}, ".patient"),
        ({"image": "a", "fold": "first"}, ".fold"),
        ({"image": "a", "fold": 0.5}, ".fold"),
    ],
)
def test_a_wrong_item_is_named_with_its_field(item: Any, field: str) -> None:
    with pytest.raises(ValueError, match=rf"^d\.json: training item 4{field}") as error:
        check_item(item, "d.json: training item 4")
    assert "\n" not in str(error.value)


def test_misspelt_fields_are_found_and_others_are_not() -> None:
    datalist = {"lables": {}, "label_maps": {}, "generator": "x", "trainings": [{"image": "a"}], "labels": {}}
    assert unread_fields(datalist) == [("lables", "labels"), ("label_maps", "label_map")]
