# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Score what another tool predicted for the same patients: label maps or probabilities, found by the names of cases."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import LoadImage
from torch import Tensor

from monai_essa.data.lists.fields import check_item
from monai_essa.data.lists.read import listed_label_map, listed_path, read_datalist, section_items
from monai_essa.data.pairing.names import PICTURE_SUFFIXES, VOLUME_SUFFIXES, case_of
from monai_essa.data.readers.monai_readers import VolumeReader
from monai_essa.data.transforms.check_volume import MapLabelIdsd
from monai_essa.evaluation.metrics import DefinedDice
from monai_essa.evaluation.run_scores import BRIER, DICE, RunScores
from monai_essa.files import write_text_whole
from monai_essa.outside import Number, shown

__all__ = ["masks_dice", "rival_masks", "rival_probabilities", "write_dice_table"]

_SUFFIXES = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)
_NEAR = 1.0e-3  # mm between two grids that are the same
_SHARE = Number(0, 1)
_SUM = 0.01  # by which the probabilities of one image may miss 1
_LARGEST = 64 << 20  # bytes of a table


def rival_masks(folder: Path, cases: Iterable[str], datalist: Path, num_classes: int) -> RunScores:
    """Score the label maps of another tool.

    Args:
        folder: of its label maps, one for each case and perhaps others; a map is found by the case in its name, so that
            ``p1.nii.gz``, ``p1_seg.nrrd`` and nnU-Net's ``p1.nii.gz`` for ``p1_0000.nii.gz`` all belong to ``p1``. They
            hold ids from 0 on.
        cases: the path of the image of each case, as the tables of our runs have it.
        datalist: names the label map of each image in some section, and the ids that its voxel values stand for.
        num_classes: with the background.

    Returns:
        The mean Dice of each case over the classes that its label has, by the paths of ``cases``.

    Raises:
        FileNotFoundError: if a file or folder does not exist, or a case has no label map in the folder.
        ValueError: if two cases have one name, a map lies on another grid than the label or holds a value that is no
            class, or the list has no label of a case.
    """
    found = masks_dice(folder, cases, datalist, num_classes)
    defined = {case: [value for value in dice if not math.isnan(value)] for case, dice in found.items()}
    scores = {case: sum(values) / len(values) if values else math.nan for case, values in defined.items()}
    truth = {
        case: tuple(f"class{place}" for place, value in enumerate(dice) if not math.isnan(value))
        for case, dice in found.items()
    }
    return RunScores(folder, DICE, scores, truth)


def masks_dice(folder: Path, cases: Iterable[str], datalist: Path, num_classes: int) -> dict[str, list[float]]:
    """Compute the Dice of each class, the background left out, of each case; NaN if its label lacks the class.

    The arguments and errors are those of :func:`rival_masks`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the label maps of another tool")
    files = _by_case(path for path in sorted(folder.iterdir()) if path.name.lower().endswith(_SUFFIXES))
    images = {case_of(path.name): str(path) for path in _by_case(Path(case) for case in cases).values()}
    labels = _labels(datalist)
    read = LoadImage(reader=VolumeReader(label=True), ensure_channel_first=True)
    ids = MapLabelIdsd("label", dict(listed_label_map(datalist)))
    metric = DefinedDice(include_background=False, num_classes=num_classes)
    found = {}
    for case, image in images.items():
        if case not in files:
            raise FileNotFoundError(f"{folder} has no label map of {shown(case)}; each tested case needs one")
        if image not in labels:
            raise ValueError(f"{datalist} has no label of {shown(case)}; expected the data list of these runs")
        truth, mask = ids({"label": read(labels[image])})["label"], read(files[case])
        _check_grid(files[case], mask, truth)
        _check_classes(files[case], mask, num_classes)
        dice = metric(y_pred=torch.as_tensor(mask)[None], y=torch.as_tensor(truth)[None])[0]
        found[image] = [float(value) for value in dice]
    return found


def write_dice_table(dice: Mapping[str, Sequence[float]], folder: Path) -> Path:
    """Write the table that an evaluation of our own leaves, so that the rival is an arm like any other.

    Args:
        dice: of :func:`masks_dice`.
        folder: run folder of the arm, made if missing; the table is ``test/dice_raw.csv`` in it.

    Returns:
        The table.
    """
    path = folder / "test" / "dice_raw.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    classes = len(next(iter(dice.values())))
    rows = [["filename", *(f"class{number}" for number in range(classes)), "mean"]]
    for case, values in dice.items():
        defined = [value for value in values if not math.isnan(value)]
        mean = sum(defined) / len(defined) if defined else math.nan
        rows.append([case, *(repr(value) for value in values), repr(mean)])
    write_text_whole(path, "".join(",".join(row) + "\n" for row in rows))
    return path


def rival_probabilities(table: Path, reference: RunScores, classes: Sequence[str]) -> RunScores:
    """Score the probabilities of another tool.

    Args:
        table: a CSV file with the column ``image`` and one for each class; images are found by the case in their name.
        reference: the scores of a run of ours, whose cases and labels are taken.
        classes: names of the classes.

    Returns:
        The Brier score of each case.

    Raises:
        FileNotFoundError: if there is no such file, or a case has no row.
        ValueError: if a column is missing, a case has two rows, or its probabilities are none.
    """
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such file; expected a table with the columns image, {', '.join(classes)}")
    if table.stat().st_size > _LARGEST:
        raise ValueError(f"{table}: expected at most {_LARGEST >> 20} MB")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: expected a table with commas in UTF-8, got {error}") from error
    lacking = [name for name in ("image", *classes) if not rows or rows[0].get(name) is None]
    if lacking:
        raise ValueError(f"{table}: expected a column {shown(lacking[0])}; the classes are {', '.join(classes)}")
    by_case: dict[str, Mapping[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        if by_case.setdefault(case_of(str(row["image"])), row) is not row:
            raise ValueError(f"{table}, line {number}: {shown(case_of(str(row['image'])))} comes twice")
    several = any(len(label) != 1 for label in reference.truth.values())
    scores, chances = {}, {}
    for case, label in reference.truth.items():
        if case_of(case) not in by_case:
            raise FileNotFoundError(f"{table} has no row of {shown(case_of(case))}; each tested case needs one")
        values = _probabilities(by_case[case_of(case)], classes, f"{table}, {shown(case_of(case))}", several)
        errors = [(value - (name in label)) ** 2 for name, value in zip(classes, values, strict=True)]
        scores[case], chances[case] = sum(errors) / len(errors), tuple(values)
    return RunScores(table, BRIER, scores, reference.truth, classes=tuple(classes), probabilities=chances)


def _labels(datalist: Path) -> dict[str, str]:
    """Return the label map of each image, by the path of the image or of its first file, of all sections of a list."""
    labels = {}
    for name, items in section_items(read_datalist(datalist)):
        for number, entry in enumerate(items):
            item = check_item(entry, f"{datalist}: {name} item {number}", ("image", "label"))
            if isinstance(item.get("label"), str) and "image" in item:
                first = item["image"][0] if isinstance(item["image"], list) else item["image"]
                labels[listed_path(first, datalist.parent)] = listed_path(item["label"], datalist.parent)
    return labels


def _by_case(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(case_of(path.name), path)
        if other is not path:
            raise ValueError(
                f"{path.parent}: {shown(other.name)} and {shown(path.name)} are of one case by their names; expected a "
                "name for each case"
            )
    return found


def _check_grid(path: Path, mask: Any, truth: Any) -> None:
    """Refuse a mask that does not lie voxel on voxel on the label."""
    if mask.shape != truth.shape:
        raise ValueError(
            f"{path}: expected the grid of the label, {_size(truth)} voxels, got {_size(mask)}; resample the mask"
        )
    moved = float((torch.as_tensor(mask.affine) - torch.as_tensor(truth.affine)).abs().max())
    if moved > _NEAR:
        raise ValueError(
            f"{path}: the affine differs from that of the label by up to {moved:.3g} mm; resample the mask"
        )


def _size(volume: Any) -> str:
    return " x ".join(map(str, volume.shape[1:]))


def _check_classes(path: Path, mask: Tensor, num_classes: int) -> None:
    wrong = next((value for value in torch.as_tensor(mask).unique().tolist() if value not in range(num_classes)), None)
    if wrong is not None:
        raise ValueError(f"{path}: expected the ids 0 to {num_classes - 1}, got {wrong:g}; map its labels to these ids")


def _probabilities(row: Mapping[str, Any], classes: Sequence[str], where: str, several: bool) -> list[float]:
    values = []
    for name in classes:
        try:
            values.append(float(_SHARE.check(float(row[name]), f"{where}, {shown(name)}")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: expected a probability for {shown(name)}, got {shown(row[name])}") from error
    if not several and abs(sum(values) - 1) > _SUM:
        raise ValueError(f"{where}: expected probabilities that add up to 1, got {sum(values):.3f}")
    return values
