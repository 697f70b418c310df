# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Write the trainings and tests of a study for other tools, so that they can be compared on the same patients."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_essa.data.pairing.names import case_of
from monai_essa.files import write_text_whole
from monai_essa.outside import Choice, shown

__all__ = ["FOLD_FILES", "fold_text", "holds_fold_file", "write_fold_file"]

FOLD_FILES: Mapping[str, str] = {"nnunet": "splits_final.json", "csv": "splits.csv"}
"""The name of the file of each format."""
_ROLES = ("training", "test", "unlabeled")


def write_fold_file(sections: Mapping[str, Any], folder: Path, form: str) -> Path:
    """Write who trains and who is tested, as another tool reads it.

    Args:
        sections: of a data list, nested by repeat and fold as ``{"repeat_1": {"fold_1": {"training": [...], ...}}}``.
        folder: where the file goes; made if missing.
        form: ``"nnunet"``: ``splits_final.json``, in which ``val`` is the test of a fold: train with ``--npz`` off, use
            ``checkpoint_final.pth``, and choose nothing by ``val``; ``"csv"``: ``splits.csv``, a row for each scan with
            its repeat, fold, role, case, image and patient.

    Returns:
        The file.

    Raises:
        ValueError: if the format is unknown, there is no repeat, or two scans would have the same name.
    """
    path = folder / FOLD_FILES[Choice(tuple(FOLD_FILES)).check(form, "the format of the splits")]
    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, fold_text(sections, form))
    return path


def fold_text(sections: Mapping[str, Any], form: str) -> str:
    """Return the text of :func:`write_fold_file`.

    Example:
        >>> fold = {"training": [{"image": "p1_0000.nii.gz"}], "test": [{"image": "p2_0000.nii.gz"}], "unlabeled": []}
        >>> json.loads(fold_text({"repeat_1": {"fold_1": fold}}, "nnunet"))
        [{'train': ['p1'], 'val': ['p2']}]
    """
    Choice(tuple(FOLD_FILES)).check(form, "the format of the splits")
    folds = list(_folds(sections))
    if not folds:
        raise ValueError("expected repeats with folds, such as repeat_1#fold_1#training; give the data list of a study")
    _check_names(folds)
    if form == "csv":
        return _table(folds)
    named = [{"train": _cases(fold["training"]), "val": _cases(fold["test"])} for _, _, fold in folds]
    return json.dumps(named, indent=4) + "\n"


def holds_fold_file(folder: Path, sections: Mapping[str, Any]) -> bool:
    """Tell whether a folder holds the very splits of a study, in either format: that a tool knew whom not to train on.

    Args:
        folder: of what the tool predicted.
        sections: as for :func:`write_fold_file`.
    """
    for form, name in FOLD_FILES.items():
        path = folder / name
        if path.is_file() and any(True for _ in _folds(sections)):
            try:
                same = path.read_text(encoding="utf-8").split() == fold_text(sections, form).split()
            except UnicodeDecodeError:
                continue
            if same:
                return True
    return False


def _folds(sections: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for repeat, folds in sections.items():
        if isinstance(folds, Mapping):
            for fold, held in folds.items():
                roles = {role: held.get(role, []) for role in _ROLES} if isinstance(held, Mapping) else {}
                if roles.get("test") and all(isinstance(items, list) for items in roles.values()):
                    yield repeat, fold, roles


def _first(item: Mapping[str, Any]) -> str:
    image = item["image"]
    return str(image if isinstance(image, str) else image[0])


def _cases(items: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(case_of(_first(item)) for item in items)


def _check_names(folds: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
    seen: dict[str, str] = {}
    for _, _, fold in folds:
        for item in (item for role in _ROLES for item in fold[role]):
            image = _first(item)
            if seen.setdefault(case_of(image), image) != image:
                raise ValueError(
                    f"{shown(seen[case_of(image)])} and {shown(image)} would both be called {shown(case_of(image))}; "
                    "rename one of them"
                )


def _table(folds: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["repeat", "fold", "role", "case", "image", "patient"])
    for repeat, fold, held in folds:
        for role in _ROLES:
            for item in held[role]:
                table.writerow([repeat, fold, role, case_of(_first(item)), _first(item), item.get("patient", "")])
    return text.getvalue()
