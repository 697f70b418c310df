# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch.nn as nn

from monai_essa.engines.folder.fingerprints import (
    config_fingerprints,
    datalist_fingerprint,
    file_fingerprint,
    file_fingerprints,
    setting_fingerprints,
)


@dataclass(frozen=True)
class Small:
    rank: int = 8
    targets: tuple[str, ...] = ("q", "v")


@dataclass(frozen=True)
class Other:
    rank: int = 8
    targets: tuple[str, ...] = ("q", "v")


def one(value: object) -> str:
    return config_fingerprints({"key": value})["key"]


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert one({"a": 1, "b": [1, 2]}) == one({"b": (1, 2), "a": 1})


@pytest.mark.parametrize(
    ("value", "changed"),
    [(1.0e-3, 1.0e-4), ("1", 1), (None, False), (Small(), Small(rank=4)), (Small(), Other()), ([1, 2], [2, 1])],
)
def test_another_value_has_another_digest(value: object, changed: object) -> None:
    assert one(value) != one(changed)


def test_each_entry_has_its_own_digest() -> None:
    before, after = config_fingerprints({"lr": 1, "epochs": 2}), config_fingerprints({"lr": 1, "epochs": 3})
    assert before["lr"] == after["lr"]
    assert before["epochs"] != after["epochs"]


def test_a_network_is_refused_by_the_name_of_its_key() -> None:
    with pytest.raises(TypeError, match="'train#network' holds a Linear"):
        config_fingerprints({"train": {"network": nn.Linear(2, 2)}})


def write(folder: Path, *names: str) -> list[dict[str, str]]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return [{"image": str(folder / name)} for name in names]


def test_the_digest_stays_when_the_data_is_moved(tmp_path: Path) -> None:
    there = datalist_fingerprint({"training": write(tmp_path / "a", "1.nii.gz", "2.nii.gz")})
    assert datalist_fingerprint({"training": write(tmp_path / "b", "1.nii.gz", "2.nii.gz")}) == there


def test_another_size_order_section_or_item_changes_the_digest(tmp_path: Path) -> None:
    items = write(tmp_path, "1.nii.gz", "2.nii.gz")
    digests = {
        datalist_fingerprint({"training": items}),
        datalist_fingerprint({"training": items[::-1]}),
        datalist_fingerprint({"training": items[:1]}),
        datalist_fingerprint({"unlabeled": items}),
        datalist_fingerprint({"training": [items[0] | {"fold": 1}, items[1]]}),  # type: ignore[dict-item]
    }
    (tmp_path / "1.nii.gz").write_text("another size")
    digests.add(datalist_fingerprint({"training": items}))
    assert len(digests) == 6


def test_a_folder_counts_as_the_files_in_it(tmp_path: Path) -> None:
    write(tmp_path, "series/1.dcm", "series/2.dcm")
    items = {"training": [{"image": str(tmp_path / "series")}]}
    before = datalist_fingerprint(items)
    write(tmp_path, "series/3.dcm")
    assert datalist_fingerprint(items) != before


def test_several_files_of_one_item_are_taken(tmp_path: Path) -> None:
    one, two = (item["image"] for item in write(tmp_path, "t1.nii.gz", "t2.nii.gz"))
    assert datalist_fingerprint({"training": [{"image": [one, two]}]}) != datalist_fingerprint(
        {"training": [{"image": [two, one]}]}
    )


def test_a_missing_file_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data list#training#0#image names .*gone.nii.gz"):
        datalist_fingerprint({"training": [{"image": str(tmp_path / "gone.nii.gz")}]})


def test_a_file_is_told_by_its_content(tmp_path: Path) -> None:
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"two")):
        (tmp_path / name).write_bytes(content)
    first, second, third = (file_fingerprint(tmp_path / name) for name in ("a.pt", "b.pt", "c.pt"))
    assert first == second == hashlib.sha256(b"one").hexdigest() != third
    assert file_fingerprint(None) is None
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such file; check the path"):
        file_fingerprint(tmp_path / "gone.pt")


def test_a_file_that_is_missing_in_one_place_is_not_one_in_another(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"a")
    one = file_fingerprints(pretrained=tmp_path / "a.pt", adapter=None)
    assert (
        one
        == [file_fingerprint(tmp_path / "a.pt"), None]
        != file_fingerprints(pretrained=None, adapter=tmp_path / "a.pt")
    )


def test_a_group_of_settings_has_the_digest_of_its_values() -> None:
    groups = {"images": {"spacing": [1.0, 2.0], "in_channels": 1}, "network": {"network_def": nn.Linear(2, 2)}}
    assert setting_fingerprints(groups) == config_fingerprints({"images": [[1.0, 2.0], 1], "network": "Linear"})
