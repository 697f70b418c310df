# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Part the patients of a study: who is tested, who gives labels to the training, and which scans SSA may see."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monai_essa.outside import Flag, ListOf, Nullable, Number, Text, shown
from monai_essa.study.terms.partition import Fold, Partition, Scan

__all__ = ["TRIED_FROM", "SplitRequest", "partition"]

_FIXED_FROM = 60  # labelled patients: one fixed test set; below, every labelled patient is tested
_FOLDS_FROM = 10  # labelled patients: five folds; below, leave-one-out
_FOLDS = 5
_LEAST_TEST = 30  # patients of a test set that is drawn
_LEAST_UNLABELED = 20  # scans; with fewer, SSA sees the training scans of each fold too
TRIED_FROM = 40  # labelled patients of a training: learning rates are tried
_TRIED_ON = 4  # a fourth of them
_PATIENTS = Nullable(ListOf(Text(longest=1024), shortest=1))


@dataclass(frozen=True)
class SplitRequest:
    """What a user asks of the partition.

    Args:
        label_count: labelled patients that a training uses; default: all that are not tested.
        repeats: of the whole study, each with another draw or partition.
        seed: of the draws.
        transductive: whether SSA may see the scans of tested patients, without their labels.
        test_patients: the patients of a fixed test set; default: drawn where there are 60 labelled patients or more.
        num_classes: of a classification; each must have a labelled patient. Default: those that occur.
        further: other numbers of labelled patients, for trainings beside those with ``label_count``.

    Raises:
        ValueError: if a value is outside its range.
    """

    label_count: int | None = None
    repeats: int = 5
    seed: int = 0
    transductive: bool = False
    test_patients: Sequence[str] | None = None
    num_classes: int | None = None
    further: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        Nullable(Number(1, whole=True)).check(self.label_count, "label_count")
        ListOf(Number(1, 10**6, whole=True), longest=20).check(self.further, "label_count")
        if len({self.label_count, *self.further}) <= len(self.further):
            raise ValueError("label_count: a number comes twice; expected each once")
        Number(1, 1000, whole=True).check(self.repeats, "repeats")
        Number(0, 2**63 - 1, whole=True).check(self.seed, "seed")
        Flag().check(self.transductive, "transductive")
        _PATIENTS.check(self.test_patients, "test_patients")
        Nullable(Number(2, 32_768, whole=True)).check(self.num_classes, "num_classes")


def partition(scans: Iterable[Scan], request: SplitRequest) -> Partition:
    """Part the patients of a study; the order of the scans plays no part.

    - From 60 labelled patients, or if the test patients are given: one fixed test set, the same in all repeats. If it
      is drawn, it holds a third of the labelled patients and at least 30. In each repeat ``label_count`` of the other
      labelled patients are drawn to train on. SSA may see all scans of the patients who are not tested.
    - 10 to 59: five folds by patient, another partition in each repeat. SSA may see the scans of the patients without a
      label; where these are fewer than 20, also those of the patients whom the fold does not test.
    - 2 to 9: leave-one-out, with the same rule for SSA.
    - 1 or none: nothing is tested.

    A patient counts as labelled with one labelled scan or more. All scans of a patient stay on one side.
    Classification draws in the proportion of the classes, and trains on at least one patient of each class where
    ``label_count`` allows it.

    Args:
        scans: all scans of the site.
        request: what the user asks for.

    Returns:
        The partition; equal scans and an equal request give an equal one, on any machine.

    Raises:
        ValueError: if there is no scan or one comes twice; if a test patient has no label; if the training lacks
            patients for ``label_count`` or a class lacks patients.

    Example:
        >>> scans = [Scan(f"p{number}.nii.gz", f"p{number}_seg.nii.gz", f"p{number}") for number in range(12)]
        >>> found = partition(scans, SplitRequest(repeats=3))
        >>> found.design, [len(fold.test) for fold in found.repeats[0]]
        ('folds', [3, 3, 2, 2, 2])
    """
    site = _Site(scans)
    test = _test_patients(site, request)
    if len(site.labelled) < 2 and test is None:
        return _untested(site)
    site.check_classes(request.num_classes)
    if test is not None:
        return _fixed(site, test, request)
    return _in_folds(site, request)


class _Site:
    """The scans by patient, in an order that does not depend on that of the input.

    Args:
        scans: in any order.
    """

    def __init__(self, scans: Iterable[Scan]) -> None:
        self.scans = sorted(scans, key=lambda scan: (scan.patient, str(scan.image)))
        if not self.scans:
            raise ValueError("expected at least one scan, got none")
        twice = next((image for image, count in Counter(str(s.image) for s in self.scans).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"{shown(twice)} comes twice; expected each scan once: with its label, or without one")
        classes: dict[str, set[int]] = defaultdict(set)
        for scan in self.scans:
            if scan.label is not None:
                classes[scan.patient] |= _classes_of(scan.label)
        self.labelled = {patient: tuple(sorted(held)) for patient, held in classes.items()}
        self.classifies = any(scan.label is not None and not _is_path(scan.label) for scan in self.scans)

    def of(self, patients: Collection[str], labelled: bool) -> tuple[Scan, ...]:
        """Return the labelled scans of some patients, or all their scans without labels."""
        wanted = set(patients)
        held = [scan for scan in self.scans if scan.patient in wanted]
        if labelled:
            return tuple(scan for scan in held if scan.label is not None)
        return tuple(replace(scan, label=None) for scan in held)

    def all_but(self, patients: Collection[str]) -> tuple[Scan, ...]:
        """Return the scans of all other patients, without labels."""
        return self.of({scan.patient for scan in self.scans} - set(patients), labelled=False)

    @property
    def refit(self) -> Fold:
        """Return everything, with nothing to test."""
        return Fold(self.of(self.labelled, labelled=True), (), self.all_but(()))

    def check_classes(self, expected: int | None) -> None:
        """Refuse a classification with a class that no labelled patient has."""
        if not self.classifies:
            return
        found = set().union(*self.labelled.values())
        if absent := sorted(set(range(expected or 0)) - found):
            raise ValueError(f"class {absent[0]} has no labelled scan; add some, or leave the class out of the labels")
        if len(found) < 2 and len(set(self.labelled.values())) < 2:
            raise ValueError(f"all labelled scans are of class {min(found, default=0)}; expected at least two classes")


def _classes_of(label: Any) -> set[int]:
    """Return the classes that a label names: none for a label map."""
    if _is_path(label):
        return set()
    return {number for number, there in enumerate(label) if there} if isinstance(label, Sequence) else {int(label)}


def _is_path(label: Any) -> bool:
    """Say whether a label is a label map, which may be in several files."""
    return isinstance(label, str) or (isinstance(label, Sequence) and any(isinstance(part, str) for part in label))


def _test_patients(site: _Site, request: SplitRequest) -> list[str] | None:
    """Return the fixed test set; None if every labelled patient is tested in turn."""
    if request.test_patients is not None:
        if unknown := sorted(set(request.test_patients) - site.labelled.keys()):
            raise ValueError(f"test patient {shown(unknown[0])} has no labelled scan; add its label or take it out")
        return sorted(set(request.test_patients))
    if len(site.labelled) < _FIXED_FROM:
        return None
    drawn = _in_proportion(site.labelled, _source(request.seed, "test"))
    return sorted(drawn[: max(_LEAST_TEST, len(site.labelled) // 3)])


def _untested(site: _Site) -> Partition:
    fold = site.refit
    count = "one labelled patient" if site.labelled else "no labelled patient"
    sentence = f"There is {count}, so that nothing can be tested; SSA sees all {_scans(fold.unlabeled)}."
    return Partition("none", ((fold,),), False, fold, (sentence,))


def _fixed(site: _Site, test: Sequence[str], request: SplitRequest) -> Partition:
    pool = {patient: classes for patient, classes in site.labelled.items() if patient not in set(test)}
    count = _label_count(request, len(pool), f"the {len(test)} test patients leave")
    numbers = range(1, request.repeats + 1)
    _check_pool(site, pool)
    unlabeled = site.all_but(() if request.transductive else test)
    drawn = [_drawn(pool, count, request.seed, f"repeat {number}") for number in numbers]
    further = [_further(site, pool, request, f"repeat {number}") for number in numbers]
    tested = site.of(test, labelled=True)
    repeats = tuple(
        (Fold(site.of(chosen, labelled=True), tested, unlabeled, more),)
        for chosen, more in zip(drawn, further, strict=True)
    )
    sentences = [
        f"{len(test)} labelled patients are tested, the same in every repeat.",
        f"{count} of the other {len(pool)} labelled patients train"
        + (", drawn anew in each repeat." if count < len(pool) else ": all of them, in each repeat with another seed."),
        f"SSA sees {_scans(unlabeled)} of {'all patients' if request.transductive else 'patients who are not tested'}.",
    ]
    trial = _trial(site, {patient: pool[patient] for patient in drawn[0]}, request.seed)
    return _said(Partition("fixed", repeats, False, site.refit, tuple(sentences), trial), site, count, request)


def _trial(site: _Site, patients: Mapping[str, tuple[int, ...]], seed: int) -> Fold | None:
    """Set a quarter of the training patients aside, in proportion; none of them is ever tested."""
    if len(patients) < TRIED_FROM:
        return None
    aside = set(_in_proportion(patients, _source(seed, "trial"))[: len(patients) // _TRIED_ON])
    return Fold(site.of(set(patients) - aside, labelled=True), site.of(aside, labelled=True), ())


def _in_folds(site: _Site, request: SplitRequest) -> Partition:
    patients = len(site.labelled)
    design, number = ("folds", _FOLDS) if patients >= _FOLDS_FROM else ("leave-one-out", patients)
    smallest = patients - -(-patients // number)  # patients that the largest fold leaves for training
    count = _label_count(request, smallest, f"a fold of {patients} labelled patients leaves")
    others = site.all_but(site.labelled)
    by_fold = len(others) < _LEAST_UNLABELED and not request.transductive
    repeats = []
    for repeat in range(1, request.repeats + 1):
        folds = []
        for fold, test in enumerate(_folds(site.labelled, number, _source(request.seed, f"partition {repeat}")), 1):
            rest = {patient: classes for patient, classes in site.labelled.items() if patient not in test}
            used = rest if request.label_count is None else _drawn(rest, count, request.seed, f"{repeat}, {fold}")
            seen = site.all_but(() if request.transductive else test) if by_fold or request.transductive else others
            more = _further(site, rest, request, f"{repeat}, {fold}")
            folds.append(Fold(site.of(used, labelled=True), site.of(test, labelled=True), seen, more))
        repeats.append(tuple(folds))
    how = "left out once" if design == "leave-one-out" else "tested once, in one of five folds that are drawn anew"
    sentences = [f"Each of the {patients} labelled patients is {how} in each repeat.", _seen_by_ssa(others, by_fold)]
    if request.transductive:
        sentences[1] = f"SSA sees all {_scans(repeats[0][0].unlabeled)} of all patients."
    return _said(Partition(design, tuple(repeats), by_fold, site.refit, tuple(sentences)), site, count, request)


def _seen_by_ssa(others: Sequence[Scan], by_fold: bool) -> str:
    if not by_fold:
        return f"SSA sees {_scans(others)} of the patients without a label, who are never tested."
    return (
        f"The patients without a label have {_scans(others)}, fewer than {_LEAST_UNLABELED}, so that SSA also sees the "
        "scans of the patients whom a fold does not test, and runs once for each fold."
    )


def _said(found: Partition, site: _Site, count: int, request: SplitRequest) -> Partition:
    """Add what a reader of the results must know."""
    extra = []
    if request.transductive:
        extra.append(
            "SSA also saw the scans of the tested patients, without their labels (transductive): the results hold for "
            "patients whose scans are there when the network is adapted."
        )
    classes = Counter(number for held in site.labelled.values() for number in held)
    lacking = [
        number
        for number in sorted(classes)
        if any(number not in _held(fold.training) for folds in found.repeats for fold in folds)
    ]
    if lacking:
        extra.append(
            f"Class {lacking[0]}, of {_patients(classes[lacking[0]])}, is missing from some trainings on "
            f"{_patients(count)}."
        )
    return replace(found, sentences=(*found.sentences, *extra))


def _held(scans: Sequence[Scan]) -> set[int]:
    return set().union(*(_classes_of(scan.label) for scan in scans))


def _label_count(request: SplitRequest, available: int, who: str) -> int:
    first = available if request.label_count is None else request.label_count
    for count in (first, *request.further):
        if not 0 < count <= available:
            raise ValueError(
                f"label_count: expected 1 to {available}, got {count}: {who} {available} labelled patients for the "
                "training"
            )
    return first


def _further(
    site: _Site, pool: Mapping[str, tuple[int, ...]], request: SplitRequest, purpose: str
) -> dict[int, tuple[Scan, ...]]:
    """Draw the trainings on other numbers of labels, in the same order: a larger one holds the smaller."""
    return {
        count: site.of(_drawn(pool, count, request.seed, purpose), labelled=True) for count in sorted(request.further)
    }


def _check_pool(site: _Site, pool: Mapping[str, tuple[int, ...]]) -> None:
    if absent := sorted(set().union(*site.labelled.values()) - set().union(*pool.values())):
        raise ValueError(
            f"class {absent[0]} is on test patients only, so that no training can learn it; add labelled patients of it"
        )


def _drawn(pool: Mapping[str, tuple[int, ...]], count: int, seed: int, purpose: str) -> list[str]:
    """Draw patients to train on: first one of each class, the rarest first, then in proportion."""
    ordered = _in_proportion(pool, _source(seed, f"labels of {purpose}"))
    numbers = Counter(number for held in pool.values() for number in held)
    first: list[str] = []
    for number in sorted(numbers, key=lambda each: (numbers[each], each)):
        if not any(number in pool[patient] for patient in first):
            first.append(next(patient for patient in ordered if number in pool[patient]))
    return [*first, *(patient for patient in ordered if patient not in first)][:count]


def _in_proportion(patients: Mapping[str, tuple[int, ...]], source: random.Random) -> list[str]:
    """Shuffle patients so that the first of them, however many, hold the classes in their proportion."""
    shuffled = source.sample(sorted(patients), len(patients))
    sizes = Counter(patients.values())
    seen: Counter[tuple[int, ...]] = Counter()
    places = {}
    for patient in shuffled:
        stratum = patients[patient]
        seen[stratum] += 1
        places[patient] = (seen[stratum] / (sizes[stratum] + 1), -sizes[stratum])
    return sorted(shuffled, key=places.__getitem__)


def _folds(patients: Mapping[str, tuple[int, ...]], number: int, source: random.Random) -> list[set[str]]:
    """Deal patients to folds, class after class, so that sizes and classes differ by one at most."""
    shuffled = source.sample(sorted(patients), len(patients))
    dealt = sorted(shuffled, key=patients.__getitem__)
    return [set(dealt[first::number]) for first in range(number)]


def _source(seed: int, purpose: str) -> random.Random:
    return random.Random(f"{seed}: {purpose}")  # a text is hashed by SHA-512, the same everywhere


def _patients(count: int) -> str:
    return f"{count} labelled patient{'' if count == 1 else 's'}"


def _scans(scans: Sequence[Scan]) -> str:
    return f"{len(scans)} scan{'' if len(scans) == 1 else 's'}"
