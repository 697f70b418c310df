# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Split cases by patient, hold some out, and draw a few labels: the same ones for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from monai_essa.data.pairing.names import patient_of
from monai_essa.outside import Number, Text

__all__ = [
    "DEFAULT_SHARES",
    "fold_items",
    "fold_section",
    "hold_out",
    "nth_patients",
    "numbered_items",
    "split_patients",
    "stratified_draw",
]

DEFAULT_SHARES: Mapping[str, float] = {"training": 0.7, "validation": 0.1, "testing": 0.2}


def split_patients(
    patients: Iterable[str], shares: Mapping[str, float] = DEFAULT_SHARES, seed: int = 0
) -> dict[str, str]:
    """Draw a section for each patient.

    Args:
        patients: names; repeated ones count once, and their order does not matter.
        shares: for each section either a fraction of the patients (a float up to 1.0) or a number of them (an int);
            what the shares leave over goes to ``unlabeled``.
        seed: of the draw.

    Returns:
        The section of each patient; every section has at least one.

    Raises:
        ValueError: if a share is not positive, the shares ask for too much, or there are too few patients.

    Example:
        >>> sorted(split_patients("abcdefghij", {"training": 3, "testing": 0.5}).values()).count("testing")
        5
    """
    names = sorted(set(patients))
    counts = _counts(len(names), shares)
    random.Random(seed).shuffle(names)
    sections = [section for section, count in counts.items() for _ in range(count)]
    sections += ["unlabeled"] * (len(names) - len(sections))
    return dict(zip(names, sections, strict=True))


def hold_out(
    items: Sequence[Mapping[str, Any]],
    fraction: float = 0.1,
    seed: int = 0,
    patients: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Split items by patient into those to train on and those to validate on, for data with no validation section.

    Args:
        items: datalist items; the patient is the item's ``patient``, else :func:`patient_of` its image.
        fraction: of the patients to hold out, in (0, 1); at least one is.
        seed: of the draw.
        patients: of the images, by path, where items do not say; see :func:`listed_patients`.

    Returns:
        The items to train on and those held out, each in the given order.

    Raises:
        ValueError: if there are fewer than two patients or the fraction is outside (0, 1).
    """
    if not 0 < fraction < 1:
        msg = f"fraction={fraction}: expected a number between 0 and 1; give the share of patients to hold out"
        raise ValueError(msg)
    names = [_patient(item, patients) for item in items]
    section = split_patients(names, {"training": 1.0 - fraction, "validation": float(fraction)}, seed)
    pairs = list(zip(items, names, strict=True))
    return (
        [item for item, patient in pairs if section[patient] == "training"],
        [item for item, patient in pairs if section[patient] == "validation"],
    )


def nth_patients(
    items: Sequence[Mapping[str, Any]], every: int, patients: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Set the items of each n-th patient apart, in the order in which the patients come first.

    Args:
        items: as in :func:`hold_out`.
        every: n; the first patient is set apart, and the n-th after it, and so on.
        patients: as in :func:`hold_out`.

    Returns:
        The other items, or all items if there is only one patient, and those set apart.

    Raises:
        ValueError: if ``every`` is not a whole number above 0.

    Example:
        >>> scans = [{"image": name} for name in ("p1_L.nii", "p1_R.nii", "p2_L.nii")]
        >>> [item["image"] for item in nth_patients(scans, 2)[1]]
        ['p1_L.nii', 'p1_R.nii']
    """
    Number(1, whole=True).check(every, "hold_out")
    names = [_patient(item, patients) for item in items]
    apart = set(list(dict.fromkeys(names))[::every])
    pairs = list(zip(items, names, strict=True))
    rest = [item for item, name in pairs if name not in apart]
    return rest or list(items), [item for item, name in pairs if name in apart]


def fold_items(
    items: Sequence[dict[str, Any]], fold: int, folds: int = 5, held_out: bool = False
) -> list[dict[str, Any]]:
    """Return the items that one fold of a cross-validation trains on, or those that it holds out.

    Patients are dealt to the folds in a fixed random order, class after class where labels are numbers, so that folds
    differ in size and in each class by one patient at most. The folds of a list are the same for every seed of a run.

    Args:
        items: all labelled items, as in :func:`hold_out`.
        fold: from 0 to ``folds - 1``.
        folds: how many there are.
        held_out: return the items of the fold itself, and not those of the others.

    Raises:
        ValueError: if ``folds`` is below 2 or above the number of patients, or there is no such fold.

    Example:
        >>> scans = [{"image": f"p{number}_{side}.nii"} for number in range(4) for side in "LR"]
        >>> len(fold_items(scans, fold=0, folds=4)), len(fold_items(scans, fold=0, folds=4, held_out=True))
        (6, 2)
    """
    _check_fold(fold, folds)
    names = [_patient(item, {}) for item in items]
    if folds > len(set(names)):
        raise ValueError(f"folds: expected at most {len(set(names))}, the number of patients, got {folds}; set fewer")
    classes = {name: str(item["label"]) for item, name in zip(items, names, strict=True) if _is_class(item)}
    dealt = random.Random("folds").sample(sorted(set(names)), len(set(names)))
    dealt.sort(key=lambda name: classes.get(name, ""))
    apart = set(dealt[fold::folds])
    return [item for item, name in zip(items, names, strict=True) if (name in apart) == held_out]


def fold_section(section: Any, fold: int | None = None, folds: int = 5, validation_section: Any | None = None) -> Any:
    """Name the part of a section that a fold of a cross-validation trains on, or the part that it validates on.

    Args:
        section: of the labelled items of a datalist.
        fold: from 0 to ``folds - 1``; None: there is no cross-validation.
        folds: how many there are.
        validation_section: what validates without a cross-validation; default: the part to train on is asked for.

    Returns:
        A section as :func:`~monai_essa.data.load_datalist` takes it.

    Raises:
        ValueError: if there is no such fold, or ``section`` is not the name of one section.

    Example:
        >>> fold_section("training"), fold_section("training", 0), fold_section("training", 0, 5, "validation")
        ('training', 'training[fold!=0/5]', 'training[fold=0/5]')
    """
    if fold is None:
        return section if validation_section is None else validation_section
    _check_fold(fold, folds)
    return f"{Text().check(section, 'section')}[fold{'!=' if validation_section is None else '='}{fold}/{folds}]"


def numbered_items(
    items: Sequence[Mapping[str, Any]], patients: Mapping[str, str] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Give each item its number and that of its patient, for objectives that tell images or patients apart.

    Args:
        items: as in :func:`hold_out`.
        patients: as in :func:`hold_out`.

    Returns:
        Copies of the items with ``number``, from 0, and ``patient``, the number of the patient in the order in which
        the patients come first: no name of a patient goes into a batch.

    Example:
        >>> scans = [{"image": name} for name in ("p1_L.nii", "p1_R.nii", "p2_L.nii")]
        >>> [(item["number"], item["patient"]) for item in numbered_items(scans)]
        [(0, 0), (1, 0), (2, 1)]
    """
    names = [_patient(item, patients) for item in items]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return [
        {**item, "number": number, "patient": places[name]}
        for number, (item, name) in enumerate(zip(items, names, strict=True))
    ]


def stratified_draw(items: Sequence[dict[str, Any]], limit: int, seed: int, where: str) -> list[dict[str, Any]]:
    """Draw items with class labels, each class in proportion to its share.

    The k-th of a class's n items, shuffled, has the place (k - 1/2) / n; the items with the lowest places are drawn. So
    a smaller limit draws a subset of a larger one.

    Args:
        items: each with a ``label``, a number or a list of them.
        limit: how many.
        seed: of the shuffle.
        where: file and section, for the error line.

    Returns:
        The items that were drawn.

    Raises:
        ValueError: if ``limit`` is not between 1 and the number of items.

    Example:
        >>> labelled = [{"image": str(number), "label": number % 2} for number in range(10)]
        >>> sorted(item["label"] for item in stratified_draw(labelled, 4, seed=0, where="list"))
        [0, 0, 1, 1]
    """
    if not 0 < limit <= len(items):
        raise ValueError(f"limit={limit}: expected 1 to {len(items)}, the number of items in {where}")
    shuffled = random.Random(seed).sample(list(items), len(items))
    sizes = Counter(str(item["label"]) for item in items)
    seen: Counter[str] = Counter()
    placed = []
    for item in shuffled:
        label = str(item["label"])
        placed.append(((seen[label] + 0.5) / sizes[label], item))
        seen[label] += 1
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])[:limit]]


def _patient(item: Mapping[str, Any], patients: Mapping[str, str]) -> str:
    first = _first_path(item["image"])
    return str(item.get("patient") or patients.get(first) or patient_of(first))


def _check_fold(fold: int, folds: int) -> None:
    Number(2, 1000, whole=True).check(folds, "folds")
    Number(0, folds - 1, whole=True).check(fold, "fold")


def _is_class(item: Mapping[str, Any]) -> bool:
    """Tell whether the label is a class, or a list of 0 and 1 for each, and no label map."""
    label = item.get("label")
    return isinstance(label, int) or (isinstance(label, list) and all(isinstance(each, int) for each in label))


def _first_path(image: str | Sequence[str]) -> str:
    return image if isinstance(image, str) else image[0]  # several files are the channels of one image


def _counts(patients: int, shares: Mapping[str, float]) -> dict[str, int]:
    fractions = {section: share for section, share in shares.items() if isinstance(share, float)}
    wrong = {section: share for section, share in shares.items() if share <= 0 or (section in fractions and share > 1)}
    if wrong or not shares or sum(fractions.values()) > 1 + 1e-6:
        msg = f"shares {dict(shares)}: expected counts (int > 0) or fractions (0.0 to 1.0, together at most 1.0)"
        raise ValueError(msg)
    counts = {
        section: max(1, int(share * patients + 1e-6)) if section in fractions else int(share)
        for section, share in shares.items()
    }
    if fractions:
        largest = max(fractions, key=lambda section: fractions[section])
        wanted = round(sum(fractions.values()) * patients)
        counts[largest] += wanted - sum(counts[section] for section in fractions)
    if sum(counts.values()) > patients or min(counts.values()) < 1:
        msg = (
            f"{patients} patients cannot fill {dict(shares)} with at least one each; give smaller shares, fewer "
            "sections, or --group-by name or --patient-pattern if folders were taken for patients"
        )
        raise ValueError(msg)
    return counts
