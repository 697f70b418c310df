# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Other tools read the splits of a study, and a folder of predictions shows by them that it had them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from monai_essa.data.lists.fold_files import fold_text, holds_fold_file, write_fold_file
from monai_essa.study.splits import SplitRequest, partition
from monai_essa.study.terms.partition import Scan, partition_sections


@pytest.fixture
def sections() -> dict[str, object]:
    scans = [Scan(f"/s/p{n:02}_0000.nii.gz", f"/s/p{n:02}.nii.gz" if n < 12 else None, f"p{n:02}") for n in range(14)]
    return partition_sections(partition(scans, SplitRequest(repeats=2)))


def test_nnunet_reads_a_training_and_a_test_for_each_fold(sections: dict[str, object], tmp_path: Path) -> None:
    path = write_fold_file(sections, tmp_path / "new", "nnunet")
    assert path.name == "splits_final.json"
    folds = json.loads(path.read_text(encoding="utf-8"))
    assert len(folds) == 10 and all(set(fold) == {"train", "val"} for fold in folds)
    labelled = {f"p{number:02}" for number in range(12)}
    for fold in folds:
        assert not set(fold["train"]) & set(fold["val"]) and set(fold["train"]) | set(fold["val"]) == labelled
    assert sorted(case for fold in folds[:5] for case in fold["val"]) == sorted(labelled)


def test_the_table_has_a_row_for_each_scan(sections: dict[str, object], tmp_path: Path) -> None:
    with write_fold_file(sections, tmp_path, "csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first = [row for row in rows if (row["repeat"], row["fold"]) == ("repeat_2", "fold_3")]
    assert {row["role"] for row in first} == {"training", "test", "unlabeled"}
    assert sum(row["role"] == "training" for row in first) + sum(row["role"] == "test" for row in first) == 12
    assert all(row["case"] == row["patient"] and row["image"] == f"/s/{row['case']}_0000.nii.gz" for row in first)


@pytest.mark.parametrize("form", ["nnunet", "csv"])
def test_a_folder_shows_that_it_had_the_splits(form: str, sections: dict[str, object], tmp_path: Path) -> None:
    assert not holds_fold_file(tmp_path, sections)
    path = write_fold_file(sections, tmp_path, form)
    assert holds_fold_file(tmp_path, sections)
    other = partition_sections(
        partition([Scan(f"/s/p{n}.nii", f"l{n}", f"p{n}") for n in range(12)], SplitRequest(seed=1))
    )
    assert not holds_fold_file(tmp_path, other) and not holds_fold_file(tmp_path, {"test": [{"image": "p1.nii"}]})
    path.write_bytes(b"\xff\xfe")
    assert not holds_fold_file(tmp_path, sections)


def test_scans_that_would_have_one_name_are_refused() -> None:
    scans = [Scan(f"/s/p{number // 2}/t{number % 2}.nii", f"l{number}", f"p{number // 2}") for number in range(20)]
    with pytest.raises(ValueError, match="would both be called 't0'; rename one of them"):
        fold_text(partition_sections(partition(scans, SplitRequest())), "nnunet")


def test_what_is_no_study_is_refused(sections: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected repeats with folds"):
        fold_text({"training": [{"image": "p1.nii"}]}, "nnunet")
    with pytest.raises(ValueError, match="the format of the splits: expected one of 'nnunet', 'csv'"):
        fold_text(sections, "monai")
