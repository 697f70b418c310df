# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for reading datalists: sections, paths, few labels, and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_essa.data.lists.read import (
    listed_label_map,
    listed_patients,
    load_datalist,
    read_datalist,
    section_names,
    unlabelled_items,
)


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """An MSD-style file with nested sections, folds and plain strings, and the files that it names."""
    for folder, count in (("images", 8), ("labels", 6)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            (tmp_path / folder / f"c{index}.nii").touch()
    pairs = [{"image": f"images/c{i}.nii", "label": f"labels/c{i}.nii", "fold": i % 2, "id": i} for i in range(6)]
    content: dict[str, Any] = {
        "labels": {"0": "background"},
        "training": pairs[:4],
        "test": ["./images/c6.nii", "images/c7.nii"],
        "source": {"training": pairs[4:], "class": [{"image": "images/c0.nii", "label": 1}]},
        "unlabeled": [{"image": "images/c7.nii"}],
        "empty": [],
        "validation": [],
        "authors": ["A. Author", "B. Author"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path / "dataset.json"


def test_paths_are_relative_to_the_file_and_other_keys_are_dropped(datalist: Path) -> None:
    first = load_datalist(datalist)[0]
    assert first == {"image": str(datalist.parent / "images/c0.nii"), "label": str(datalist.parent / "labels/c0.nii")}


@pytest.mark.parametrize("name", ["source#training", "source::training"])
def test_nested_sections_are_named_as_in_bundles(datalist: Path, name: str) -> None:
    assert [Path(item["image"]).name for item in load_datalist(datalist, name)] == ["c4.nii", "c5.nii"]


def test_section_names_show_the_nesting(datalist: Path) -> None:
    assert section_names(read_datalist(datalist)) == [
        "training",
        "test",
        "source#training",
        "source#class",
        "unlabeled",
        "validation",
    ]


def test_several_sections_are_joined_in_order(datalist: Path) -> None:
    items = load_datalist(datalist, ["source#training", "training"])
    assert [Path(item["image"]).stem for item in items] == ["c4", "c5", "c0", "c1", "c2", "c3"]


@pytest.mark.parametrize("name", ["test", "testing"])
def test_plain_strings_are_images_and_test_has_two_names(datalist: Path, name: str) -> None:
    items = load_datalist(datalist, name, keys=("image",))
    assert [Path(item["image"]).name for item in items] == ["c6.nii", "c7.nii"]


def test_folds_are_chosen_in_brackets(datalist: Path) -> None:
    inside = load_datalist(datalist, "training[fold=0]")
    outside = load_datalist(datalist, "training[fold!=0]")
    assert [Path(item["image"]).stem for item in inside] == ["c0", "c2"]
    assert [Path(item["image"]).stem for item in outside] == ["c1", "c3"]


def test_a_class_is_no_path(datalist: Path) -> None:
    assert load_datalist(datalist, "source#class")[0]["label"] == 1


def test_base_dir_replaces_the_folder_of_the_file(datalist: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "lists" / "copy.json"
    elsewhere.parent.mkdir()
    elsewhere.write_text(datalist.read_text(encoding="utf-8"))
    with pytest.raises(FileNotFoundError, match="give base_dir"):
        load_datalist(elsewhere)
    assert len(load_datalist(elsewhere, base_dir=tmp_path)) == 4


def test_a_smaller_limit_is_a_subset_of_a_larger(datalist: Path) -> None:
    few, more, other = (load_datalist(datalist, limit=n, seed=seed) for n, seed in ((2, 1), (3, 1), (3, 2)))
    assert more[:2] == few
    assert load_datalist(datalist, limit=3, seed=1) == more
    assert other != more


@pytest.mark.parametrize("limit", [0, 5, -1])
def test_a_limit_beyond_the_items_is_refused(datalist: Path, limit: int) -> None:
    with pytest.raises(ValueError, match=f"limit={limit}: expected 1 to 4"):
        load_datalist(datalist, limit=limit)


def test_unlabelled_items_come_from_unlabeled_where_there_is_one(datalist: Path) -> None:
    assert unlabelled_items(datalist) == [{"image": str(datalist.parent / "images/c7.nii")}]


def test_unlabelled_items_else_come_from_training_without_labels(datalist: Path) -> None:
    content = json.loads(datalist.read_text(encoding="utf-8"))
    content["unlabeled"] = []
    datalist.write_text(json.dumps(content), encoding="utf-8")
    items = unlabelled_items(datalist)
    assert len(items) == 4
    assert all(set(item) == {"image"} for item in items)
    assert len(unlabelled_items(datalist, "source#training")) == 2


def test_channels_in_several_files_stay_a_list(datalist: Path) -> None:
    content = json.loads(datalist.read_text(encoding="utf-8"))
    content["training"] = [{"image": ["images/c0.nii", "images/c1.nii"]}]
    datalist.write_text(json.dumps(content), encoding="utf-8")
    assert [Path(path).name for path in load_datalist(datalist, keys=("image",))[0]["image"]] == ["c0.nii", "c1.nii"]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("trainning", r"no section 'trainning' \(near: training, source#training\); it has training, test,"),
        ("source#trainin", r"near: source#training"),
        ("validation", "section 'validation' is empty"),
        ("training[fold=7]", r"section 'training\[fold=7\]' is empty"),
        ("test", "test item 0: expected the key 'label', got image; add it, or ask for other keys"),
    ],
)
def test_a_wrong_section_gives_one_line(datalist: Path, section: str, line: str) -> None:
    with pytest.raises(ValueError, match=line) as error:
        load_datalist(datalist, section)
    assert str(datalist) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_image_is_named_with_near_matches(datalist: Path) -> None:
    (datalist.parent / "images" / "c1.nii").rename(datalist.parent / "images" / "c1_.nii")
    with pytest.raises(FileNotFoundError, match=r"training item 1\.image: .*c1\.nii does not exist \(near: c1_\.nii"):
        load_datalist(datalist)


def test_a_missing_datalist_is_named_with_near_matches(datalist: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such datalist \(near: dataset\.json\)"):
        load_datalist(datalist.with_name("datasets.json"))


@pytest.mark.parametrize(("content", "line"), [("{", "expected a JSON datalist"), ("[]", "got a list")])
def test_a_file_that_is_no_datalist_is_refused(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=line):
        load_datalist(tmp_path / "bad.json")


def test_real_sections_have_their_cases(data_dir: Path) -> None:
    shift = data_dir / "hippocampus" / "dataset_domainshift.json"
    assert len(load_datalist(shift, ["source#training", "source#validation", "source#test"])) == 205
    assert len(unlabelled_items(shift, "target#training_unlabelled_or_fewshot")) == 25
    assert len(load_datalist(data_dir / "hippocampus" / "dataset.json", "testing")) == 60


def _rewrite(datalist: Path, **changes: Any) -> Path:
    content = json.loads(datalist.read_text(encoding="utf-8")) | changes
    datalist.write_text(json.dumps(content), encoding="utf-8")
    return datalist


def test_a_byte_order_mark_is_passed_over(datalist: Path) -> None:
    datalist.write_bytes(b"\xef\xbb\xbf" + datalist.read_bytes())
    assert len(load_datalist(datalist)) == 4


def test_separators_of_windows_are_read(datalist: Path) -> None:
    _rewrite(datalist, training=[{"image": "images\\c0.nii", "label": ".\\labels\\c0.nii"}])
    assert load_datalist(datalist)[0]["label"] == str(datalist.parent / "labels" / "c0.nii")
    (datalist.parent / "images\\c0.nii").touch()  # a name on other systems
    assert load_datalist(datalist)[0]["image"] == str(datalist.parent / "images\\c0.nii")


@pytest.mark.parametrize("sign", "$@%")
def test_a_path_never_begins_with_what_is_code(sign: str, datalist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (datalist.parent / f"{sign}x").mkdir()
    (datalist.parent / f"{sign}x" / "c0.nii").touch()
    _rewrite(datalist, training=[{"image": f"{sign}x/c0.nii"}])
    monkeypatch.chdir(datalist.parent)
    assert load_datalist("dataset.json", keys=("image",))[0]["image"].startswith("/")


def test_folds_may_be_text(datalist: Path) -> None:
    _rewrite(datalist, training=[{"image": f"images/c{n}.nii", "fold": str(n % 2)} for n in range(4)])
    assert len(load_datalist(datalist, "training[fold=0]", ("image",))) == 2


def test_patients_are_those_that_items_name(datalist: Path) -> None:
    items = [{"image": "images/c0.nii", "patient": "p"}, {"image": "images/c1.nii"}, "images/c2.nii"]
    items.append({"image": ["images/c3.nii", "images/c4.nii"], "patient": 7})
    _rewrite(datalist, training=items, unlabeled=[{"image": "images/c5.nii", "patient": "q"}])
    folder = datalist.parent / "images"
    assert listed_patients(datalist, "training") == {str(folder / "c0.nii"): "p", str(folder / "c3.nii"): "7"}
    assert listed_patients(datalist) == {str(folder / "c5.nii"): "q"}
    assert listed_patients(datalist.with_name("none.json")) == {}


def test_the_label_map_of_a_datalist_is_read(datalist: Path) -> None:
    assert listed_label_map(datalist) == listed_label_map(datalist.with_name("none.json")) == {}
    assert listed_label_map(_rewrite(datalist, label_map={"255": 1})) == {255.0: 1}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"training": [{"image": "a", "label": NaN}]}', "NaN, which is not JSON"),
        ('{"training": [{"image": "a", "fold": -Infinity}]}', "-Infinity, which is not JSON"),
        ('{"training": [], "training": []}', "the name 'training' twice"),
        ("[" * 100_000, "lists within lists without end"),
        ('{"seed": ' + "9" * 5000 + "}", "expected a JSON datalist"),
        ('{"seed": 1e999}', "field 'seed': expected a whole number"),
        ('{"training": {"a": 1}}', r"bad\.json: no section 'training'"),
        ('{"training": "images"}', "field 'training': expected a list of items, got 'images'"),
        ('{"modality": "CT\\n$x", "training": []}', "field 'modality': expected text"),
        ('{"training": [3]}', "training item 0: expected a path or a mapping with the key 'image', got 3"),
        ('{"training": [{"image": {"a": 1}}]}', r"training item 0\.image: expected text"),
        ('{"training": [{"image": ["a", null]}]}', r"training item 0\.image\[1\]: expected text"),
    ],
)
def test_odd_values_are_one_line_with_file_and_field(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=line) as error:
        load_datalist(tmp_path / "bad.json", keys=("image",))
    assert str(error.value).startswith(str(tmp_path / "bad.json")) and "\n" not in str(error.value)


@pytest.mark.parametrize("sign", ["", "\\"])
def test_a_name_that_is_too_long_does_not_exist(sign: str, datalist: Path) -> None:
    _rewrite(datalist, training=[{"image": f"images{sign}/{'x' * 300}.nii"}])
    with pytest.raises(FileNotFoundError, match=r"training item 0\.image: .* does not exist"):
        load_datalist(datalist, keys=("image",))
