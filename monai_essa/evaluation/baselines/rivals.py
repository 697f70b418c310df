# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Score what another tool predicted for the same patients: label maps or probabilities, found by the names of cases."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import LoadImage
from torch import Tensor

from monai_essa.data.lists.class_labels import class_table
from monai_essa.data.lists.fields import check_item
from monai_essa.data.lists.fold_files import holds_fold_file
from monai_essa.data.lists.read import listed_label_map, listed_path, read_datalist, section_items
from monai_essa.data.pairing.names import PICTURE_SUFFIXES, VOLUME_SUFFIXES, case_of
from monai_essa.data.readers.monai_readers import VolumeReader
from monai_essa.data.transforms.check_volume import MapLabelIdsd
from monai_essa.evaluation.metrics import DefinedDice
from monai_essa.evaluation.run_scores import BRIER, DICE, RunScores, read_run
from monai_essa.files import write_text_whole
from monai_essa.outside import NAME, Flag, Number, Record, Text, shown

__all__ = ["masks_dice", "read_rivals", "rival_masks", "rival_probabilities", "score_rival", "write_dice_table"]

_SUFFIXES = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)
_NEAR = 1.0e-3  # mm between two grids that are the same
_SHARE = Number(0, 1)
_SUM = 0.01  # by which the probabilities of one image may miss 1


def score_rival(path: Path, datalist: Path, labels: Mapping[str, int], output: Path) -> bool:
    """Score what another tool predicted for the tested patients of a study, and write the table of a test.

    It needs none of our runs, so that a rival that does not fit is refused before anything is trained.

    Args:
        path: a folder of label maps, as for :func:`rival_masks`, or a table, as for :func:`rival_probabilities`.
        datalist: of the study, with sections such as ``repeat_1#fold_1#test``.
        labels: the number of each class by its name.
        output: folder of the rival; ``test`` in it gets the table, and ``rival.json`` says whether it is blinded.

    Returns:
        Whether the tool shows, by a copy of the splits of the study beside its predictions, that it had them.

    Raises:
        FileNotFoundError: as :func:`rival_masks` and :func:`rival_probabilities`.
        ValueError: likewise, or if the list has no test.
    """
    sections = read_datalist(datalist)
    places = [(name, items) for name, items in section_items(sections) if re.fullmatch(r"repeat_1#fold_\d+#test", name)]
    checked = [check_item(item, f"{datalist}: {name}") for name, items in places for item in items]
    if not checked:
        raise ValueError(f"{datalist}: expected tests such as repeat_1#fold_1#test; give the data list of a study")
    tested = {listed_path(_first(item["image"]), datalist.parent): item.get("label") for item in checked}
    names = sorted(labels, key=labels.__getitem__)
    if all(isinstance(label, str) for label in tested.values()):
        write_dice_table(masks_dice(path, tested, datalist, len(names)), output)
    else:
        truth = {case: tuple(names[number] for number in _classes(label)) for case, label in tested.items()}
        _write_probabilities(rival_probabilities(path, RunScores(path, BRIER, {}, truth), names), output)
    blinded = holds_fold_file(path.parent if path.is_file() else path, sections)
    write_text_whole(output / "rival.json", json.dumps({"blinded": blinded}) + "\n")
    return blinded


def read_rivals(folder: Path) -> dict[str, tuple[RunScores, bool]]:
    """Read the scores of the rivals of a study by their names, and whether each is blinded.

    Args:
        folder: with a folder for each rival, as :func:`score_rival` writes them; it may be missing.

    Raises:
        ValueError: if a name, a table or ``rival.json`` is damaged.
    """
    found = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = Text(NAME, longest=64).check(place.name, f"the name of {place}")
        path = place / "rival.json"
        if not path.is_file():
            continue  # its scoring was killed
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: expected the JSON record of a rival; score it again") from error
        found[name] = read_run(place), Record({"blinded": Flag()}).check(record, str(path))["blinded"]
    return found


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
    rows = class_table(table)
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


def _write_probabilities(run: RunScores, folder: Path) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "label", *run.classes])
    for case, chances in run.probabilities.items():
        table.writerow([case, "+".join(run.truth[case]), *(repr(value) for value in chances)])
    (folder / "test").mkdir(parents=True, exist_ok=True)
    write_text_whole(folder / "test" / "predictions.csv", text.getvalue())


def _classes(label: Any) -> list[int]:
    """Return the numbers of the classes of a label: a number, or 0 or 1 for each class."""
    return [number for number, there in enumerate(label) if there] if isinstance(label, list) else [int(label)]


def _first(image: Any) -> str:
    return str(image[0] if isinstance(image, list) else image)


def _labels(datalist: Path) -> dict[str, str]:
    """Return the label map of each image, by the path of the image or of its first file, of all sections of a list."""
    labels = {}
    for name, items in section_items(read_datalist(datalist)):
        for number, entry in enumerate(items):
            item = check_item(entry, f"{datalist}: {name} item {number}", ("image", "label"))
            if isinstance(item.get("label"), str) and "image" in item:
                labels[listed_path(_first(item["image"]), datalist.parent)] = listed_path(
                    item["label"], datalist.parent
                )
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
