# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What another tool predicted is scored like a run of ours, case by case, or refused in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_essa.data.lists.fold_files import write_fold_file
from monai_essa.evaluation.baselines.rivals import (
    masks_dice,
    read_rivals,
    rival_masks,
    rival_probabilities,
    score_rival,
    write_dice_table,
)
from monai_essa.evaluation.run_scores import BRIER, RunScores, read_run

SHAPE = (6, 5, 4)


def label(number: int) -> np.ndarray:
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    voxels[1:4, 1:4] = 1
    if number:
        voxels[4, :, :number] = 2
    return voxels


def save(path: Path, voxels: np.ndarray, shift: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(voxels, affine), path)


@pytest.fixture
def site(tmp_path: Path) -> tuple[list[str], Path]:
    """Three cases with images as nnU-Net names them and labels; masks are the labels, but for the last case."""
    items = []
    for number in range(3):
        save(tmp_path / f"labels/p{number}.nii.gz", label(number))
        save(tmp_path / f"masks/p{number}.nii.gz", label(number) if number < 2 else label(1))
        items.append({"image": f"images/p{number}_0000.nii.gz", "label": f"labels/p{number}.nii.gz"})
    sections = {"repeat_1": {"fold_1": {"test": items[:1]}, "fold_2": {"test": items[1:]}}}
    (tmp_path / "list.json").write_text(json.dumps(sections), encoding="utf-8")
    return [str(tmp_path / item["image"]) for item in items], tmp_path


def test_masks_have_the_dice_of_the_defined_classes(site: tuple[list[str], Path]) -> None:
    cases, folder = site
    run = rival_masks(folder / "masks", cases, folder / "list.json", num_classes=3)
    smaller = 2 * 5 / (5 + 10)  # a plate of 5 voxels in one of 10
    assert list(run.scores.values()) == pytest.approx([1.0, 1.0, (1 + smaller) / 2])
    assert list(run.scores) == cases
    assert list(run.truth.values()) == [("class0",), ("class0", "class1"), ("class0", "class1")]


def test_the_table_reads_back_as_a_run(site: tuple[list[str], Path]) -> None:
    cases, folder = site
    dice = masks_dice(folder / "masks", cases, folder / "list.json", num_classes=3)
    assert math.isnan(dice[cases[0]][1])
    write_dice_table(dice, folder / "run")
    read, direct = read_run(folder / "run"), rival_masks(folder / "masks", cases, folder / "list.json", 3)
    assert (dict(read.scores), dict(read.truth)) == (dict(direct.scores), dict(direct.truth))


def other_shape(folder: Path) -> None:
    save(folder / "masks/p1.nii.gz", label(1)[:-1])


def moved(folder: Path) -> None:
    save(folder / "masks/p1.nii.gz", label(1), shift=3.0)


def unknown_class(folder: Path) -> None:
    save(folder / "masks/p1.nii.gz", 7 * label(1))


def half_a_class(folder: Path) -> None:
    save(folder / "masks/p1.nii.gz", (0.5 * label(1)).astype(np.float32))


def twice(folder: Path) -> None:
    save(folder / "masks/p1_seg.nii.gz", label(1))


def gone(folder: Path) -> None:
    (folder / "masks/p1.nii.gz").unlink()


def unlisted(folder: Path) -> None:
    (folder / "list.json").write_text('{"test": [{"image": "images/p0_0000.nii.gz", "label": "labels/p0.nii.gz"}]}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_shape, r"p1.nii.gz: expected the grid of the label, 6 x 5 x 4 voxels, got 5 x 5 x 4"),
        (moved, "p1.nii.gz: the affine differs from that of the label by up to 3 mm; resample the mask"),
        (unknown_class, "p1.nii.gz: expected the ids 0 to 2, got 7"),
        (half_a_class, "p1.nii.gz: expected the ids 0 to 2, got 0.5"),
        (twice, "'p1.nii.gz' and 'p1_seg.nii.gz' are of one case by their names"),
        (gone, "has no label map of 'p1'; each tested case needs one"),
        (unlisted, "list.json has no label of 'p1'"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    change: Callable[[Path], None], message: str, site: tuple[list[str], Path]
) -> None:
    cases, folder = site
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        rival_masks(folder / "masks", cases, folder / "list.json", num_classes=3)
    assert "\n" not in str(caught.value)


def test_cases_of_one_name_and_a_folder_that_is_none_are_refused(site: tuple[list[str], Path]) -> None:
    cases, folder = site
    with pytest.raises(ValueError, match="are of one case by their names"):
        rival_masks(folder / "masks", [*cases, "/elsewhere/p1.nii.gz"], folder / "list.json", num_classes=3)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        rival_masks(folder / "none", cases, folder / "list.json", num_classes=3)


def test_a_rival_of_a_study_is_scored_before_anything_is_trained(site: tuple[list[str], Path]) -> None:
    cases, folder = site
    labels = {"background": 0, "front": 1, "back": 2}
    assert not score_rival(folder / "masks", folder / "list.json", labels, folder / "rivals" / "nnunet")
    found, blinded = read_rivals(folder / "rivals")["nnunet"]
    assert dict(found.scores) == dict(rival_masks(folder / "masks", cases, folder / "list.json", 3).scores)
    assert not blinded
    write_fold_file(json.loads((folder / "list.json").read_text(encoding="utf-8")), folder / "masks", "csv")
    assert score_rival(folder / "masks", folder / "list.json", labels, folder / "rivals" / "nnunet")
    assert read_rivals(folder / "rivals")["nnunet"][1] and read_rivals(folder / "none") == {}
    (folder / "list.json").write_text('{"test": [{"image": "p1.nii.gz", "label": "l.nii.gz"}]}', encoding="utf-8")
    with pytest.raises(ValueError, match="expected tests such as repeat_1#fold_1#test"):
        score_rival(folder / "masks", folder / "list.json", labels, folder / "rivals" / "nnunet")


@pytest.mark.parametrize("text", ["{", '{"blinded": "yes"}', '{"blinded": true, "$x": 1}'])
def test_a_damaged_rival_is_refused(text: str, site: tuple[list[str], Path]) -> None:
    _, folder = site
    score_rival(folder / "masks", folder / "list.json", {"a": 0, "b": 1, "c": 2}, folder / "rivals" / "x")
    (folder / "rivals" / "x" / "rival.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"rival\.json"):
        read_rivals(folder / "rivals")


@pytest.mark.parametrize("several", [False, True])
def test_a_rival_of_a_classification_is_scored_by_its_table(several: bool, tmp_path: Path) -> None:
    labels: list[Any] = [[1, 0], [1, 1]] if several else [0, 1]
    items = [{"image": f"x{number}.png", "label": label} for number, label in enumerate(labels, start=1)]
    (tmp_path / "list.json").write_text(json.dumps({"repeat_1": {"fold_1": {"test": items}}}), encoding="utf-8")
    score_rival(table(tmp_path, ROWS), tmp_path / "list.json", {"yes": 1, "no": 0}, tmp_path / "rivals" / "other")
    run, _ = read_rivals(tmp_path / "rivals")["other"]
    assert run.classes == ("no", "yes") and list(run.truth.values())[0] == ("no",)
    assert run.scores[str(tmp_path / "x1.png")] == pytest.approx(0.3**2)
    assert run.probabilities[str(tmp_path / "x2.png")] == (0.1, 0.9)


REFERENCE = RunScores(Path("run"), BRIER, {}, {"/a/x1.png": ("no",), "/a/x2.png": ("yes",)})
ROWS = "image,yes,no\nx2.png,0.9,0.1\nx1.png,0.3,0.7\nx9.png,0.5,0.5\n"


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "scores.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_probabilities_have_the_brier_score(tmp_path: Path) -> None:
    run = rival_probabilities(table(tmp_path, ROWS), REFERENCE, ["no", "yes"])
    assert run.scores == {"/a/x1.png": pytest.approx(0.3**2), "/a/x2.png": pytest.approx(0.1**2)}
    assert run.truth == REFERENCE.truth and run.metric == BRIER


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,yes\nx1.png,0.5\n", "expected a column 'no'; the classes are no, yes"),
        ("", "expected a column 'image'"),
        ("image,no,yes\nx1.png,0.5,0.5\n", "has no row of 'x2'; each tested case needs one"),
        (ROWS + "sub/x2.png,0.5,0.5\n", "line 5: 'x2' comes twice"),
        (ROWS.replace("0.9", "1.9"), "'x2': expected a probability for 'yes', got '1.9'"),
        (ROWS.replace("0.9", "high"), "'x2': expected a probability for 'yes', got 'high'"),
        (ROWS.replace("0.9", "0.8"), "'x2': expected probabilities that add up to 1, got 0.900"),
        (b"image,no,yes\n\xff,0,1\n", "expected a table with commas in UTF-8"),
    ],
)
def test_probabilities_that_do_not_fit_are_refused(text: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        rival_probabilities(table(tmp_path, text), REFERENCE, ["no", "yes"])
    assert "\n" not in str(caught.value)


def test_probabilities_of_several_classes_need_not_add_up(tmp_path: Path) -> None:
    several = RunScores(Path("run"), BRIER, {}, {"/a/x1.png": ("no", "yes"), "/a/x2.png": ()})
    run = rival_probabilities(table(tmp_path, ROWS.replace("0.3,0.7", "0.8,0.7")), several, ["no", "yes"])
    assert run.scores["/a/x1.png"] == pytest.approx((0.2**2 + 0.3**2) / 2)
    with pytest.raises(FileNotFoundError, match="no such file"):
        rival_probabilities(tmp_path / "none.csv", several, ["no", "yes"])
