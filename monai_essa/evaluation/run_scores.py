# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Read the score of each patient from the tables that evaluations of finished runs leave."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from monai_essa.data.pairing.names import patient_of
from monai_essa.evaluation.repeats import ArmScores
from monai_essa.outside import Nullable, Number, shown

__all__ = ["BRIER", "DICE", "RunScores", "SiteScores", "case_paths", "joined_folds", "read_run", "site_scores"]

DICE = "mean Dice over the defined classes"
BRIER = "Brier score, mean over the classes"
_TABLES = {"dice_raw.csv": DICE, "predictions.csv": BRIER}
_SHARE = Number(0, 1)  # a Dice or a probability
_BOUNDS = (0.0, 1.0)  # of both scores
_SEED = Nullable(Number(-(2**63), 2**63 - 1, whole=True))
_LARGEST = 64 << 20  # bytes of a table


@dataclass(frozen=True, eq=False)
class RunScores:
    """The scores of one evaluated run, case by case.

    Attributes:
        folder: where the table is.
        metric: :data:`DICE` or :data:`BRIER`.
        scores: of each case, by the name of its file as the table has it; NaN if undefined.
        truth: of each case, what of its label the table tells: which classes are defined, or which class it has.
        seed: of the training; None where no ``run.json`` tells it.
        classes: what the table calls them; the background of a segmentation is none of them.
        probabilities: of each case, of each class; empty for a segmentation.
        folds: how many trainings the scores come from.
    """

    folder: Path
    metric: str
    scores: Mapping[str, float]
    truth: Mapping[str, tuple[str, ...]]
    seed: int | None = None
    classes: tuple[str, ...] = ()
    probabilities: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    folds: int = 1


@dataclass(frozen=True, eq=False)
class SiteScores:
    """The scores of all arms, patient by patient.

    Attributes:
        metric: :data:`DICE` or :data:`BRIER`.
        arms: in the order in which they were given.
        cases: how many there are.
        undefined: how many cases have no score in some run, and are left out of every one.
        named: of how many cases the data list names the patient; the others are guessed from the names of files.
        owners: the patient of each case, in the order of :func:`case_paths` of the first run.
        runs: of each arm, its repeats in the order of its scores.
    """

    metric: str
    arms: Sequence[ArmScores]
    cases: int
    undefined: int
    named: int
    owners: Sequence[str] = ()
    runs: Mapping[str, Sequence[RunScores]] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """Return what counts as a patient, in words."""
        if self.named == self.cases:
            return "patient, as the data list names it"
        if not self.named and len(self.arms[0].patients) == self.cases:
            return "case, since each file has a name of its own and no data list names patients"
        return "patient, guessed from the names of the files" + (
            " where the data list names none" if self.named else ""
        )


def read_run(folder: str | Path) -> RunScores:
    r"""Read the table of an evaluated run: ``dice_raw.csv`` of segmentation, ``predictions.csv`` of classification.

    - Segmentation: the mean Dice of a case over the classes that its label has.
    - Classification: the Brier score :math:`\frac{1}{C} \sum_c (p_c - y_c)^2` of an image, from 0 to 1; for two
      classes the squared error of the second one's probability. Lower is better.

    Args:
        folder: of a finished run, with the table in ``test``, or of the table itself.

    Returns:
        The scores of its cases.

    Raises:
        FileNotFoundError: if there is no table.
        ValueError: if the run is not finished, or the table is damaged.
    """
    folder = Path(folder)
    found = [place / name for place in (folder / "test", folder) for name in _TABLES if (place / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folder}: no test/dice_raw.csv or test/predictions.csv; expected a finished run that was scored with "
            "evaluate.yaml"
        )
    table = found[0]
    seed = _finished_seed(table.parent.parent if table.parent.name == "test" else table.parent)
    rows = _rows(table)
    metric = _TABLES[table.name]
    read = _dice if metric == DICE else _brier
    scores: dict[str, float] = {}
    truth: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows[1:], start=2):
        case, score, label = read(rows[0], row, f"{table}, line {number}")
        if case in scores:
            raise ValueError(f"{table}, line {number}: {shown(case)} comes twice; expected one row for each case")
        scores[case], truth[case] = score, label
    if metric == DICE:
        return RunScores(table.parent, metric, scores, truth, seed, _class_columns(rows[0]))
    chances = {row[0]: tuple(map(float, row[2:])) for row in rows[1:]}
    return RunScores(table.parent, metric, scores, truth, seed, tuple(rows[0][2:]), chances)


def joined_folds(folds: Sequence[RunScores], patients: Mapping[str, str] = MappingProxyType({})) -> RunScores:
    """Join the runs of the folds of one repeat, so that each patient is tested once in it.

    Args:
        folds: at least one, each with its own cases.
        patients: as for :func:`site_scores`; a patient whom it names must not be in two folds.

    Returns:
        The scores of all cases, under the folder of the first fold.

    Raises:
        ValueError: if the folds differ in metric, or a case or a named patient is in two of them.

    Example:
        >>> first, second = (RunScores(Path(f"fold_{name}"), DICE, {name: 0.5}, {name: ()}, seed=1) for name in "ab")
        >>> sorted(joined_folds([first, second]).scores)
        ['a', 'b']
    """
    first = folds[0]
    tested: dict[str, Path] = {}
    for fold in folds:
        if fold.metric != first.metric:
            raise ValueError(f"{first.folder} has the {first.metric}, {fold.folder} the {fold.metric}; join one task")
        own = set(fold.scores) | {f"patient {patients[case]}" for case in fold.scores if case in patients}
        twice = next((case for case in sorted(own) if case in tested), None)
        if twice is not None:
            raise ValueError(
                f"{tested[twice]} and {fold.folder} both tested {shown(twice)}; expected folds of one repeat, which "
                "test each patient once, or repeats with seeds of their own"
            )
        tested |= dict.fromkeys(own, fold.folder)
    scores, truth, chances = (
        {case: value for fold in folds for case, value in getattr(fold, name).items()}
        for name in ("scores", "truth", "probabilities")
    )
    return replace(first, scores=scores, truth=truth, probabilities=chances, folds=sum(fold.folds for fold in folds))


def case_paths(run: RunScores) -> dict[str, str]:
    """Return each case's name in the table by its path below the folder that all cases of the run share.

    Args:
        run: of :func:`read_run`.
    """
    places = {case: os.path.split(case) for case in run.scores}
    try:
        top = os.path.commonpath([folder for folder, _ in places.values()])
        folders = {folder for folder, _ in places.values()}
        below = {folder: Path(os.path.relpath(folder or ".", top or ".")).as_posix() for folder in folders}
    except ValueError:  # absolute and relative paths, or two drives
        return {case: case for case in run.scores}
    return {f"{below[folder]}/{name}".removeprefix("./"): case for case, (folder, name) in places.items()}


def site_scores(
    arms: Mapping[str, Sequence[RunScores]],
    patients: Mapping[str, str] = MappingProxyType({}),
    rivals: Mapping[str, Sequence[RunScores]] = MappingProxyType({}),
) -> SiteScores:
    """Bring the runs of several procedures together, patient by patient.

    Cases are told apart by their path below the folder that all cases of a run share, so that the data may have been
    moved between two runs. The score of a patient is the mean over the cases whose score is defined in every run.

    Runs of one procedure with the same seed and no case in common are the folds of one repeat and are joined. Where all
    procedures have the same seeds, repeats are paired by them, otherwise by their order.

    Args:
        arms: the runs of each procedure, its repeats or their folds, by the procedure's name.
        patients: of the cases, by path, as :func:`monai_essa.data.listed_patients` returns them. The patient of any
            other case is guessed from the name of its file (:func:`monai_essa.data.patient_of`).
        rivals: the runs of procedures of which there may be only one, such as a network that is in use. One run stands
            for each repeat: the comparison is then with this network as it is, not with training it again.

    Returns:
        The arms, then the rivals, all of the same patients.

    Raises:
        ValueError: if the runs differ in metric, cases, labels or, between arms, in number, or a run is a copy.

    Example:
        >>> cases = {"/scans/p1.nii.gz": 0.8, "/scans/p2.nii.gz": 0.6}
        >>> run = RunScores(Path("runs/plain"), DICE, cases, dict.fromkeys(cases, ("class0",)))
        >>> site_scores({"plain": [run]}).arms[0].scores
        array([[0.8, 0.6]])
    """
    if not any(arms.values()):
        raise ValueError("expected at least one run, got none")
    repeats = {name: _repeats(folds, patients) for name, folds in {**arms, **rivals}.items()}
    single = [name for name in rivals if len(repeats[name]) == 1]
    paired = _paired({name: held for name, held in repeats.items() if name not in single})
    number = len(next(iter(paired.values())))
    arms = {name: repeats[name] * number if name in single else paired[name] for name in repeats}
    runs = [run for held in arms.values() for run in held]
    paths = [case_paths(run) for run in runs]
    for run, own in zip(runs[1:], paths[1:], strict=True):
        _check_same_cases(runs[0], run, paths[0], own)
    for name, held in paired.items():
        _check_no_copies(name, held)
    scores = np.array([[run.scores[own[case]] for case in paths[0]] for run, own in zip(runs, paths, strict=True)])
    undefined = ~np.isfinite(scores).all(axis=0)  # (cases,)
    scores[:, undefined] = math.nan
    named = {case: patients[path] for case, path in paths[0].items() if path in patients}
    if patients and not named:
        raise ValueError(
            "the data list names no patient of the cases that were scored; expected the list of these runs"
        )
    owners = [named.get(case) or patient_of(case) for case in paths[0]]
    names, by_patient = _means(owners, scores)
    counts = iter(np.split(by_patient, len(arms)))
    built = [ArmScores(name, next(counts), names, runs[0].metric == DICE, _BOUNDS) for name in arms]
    return SiteScores(runs[0].metric, built, len(paths[0]), int(undefined.sum()), len(named), owners, arms)


def _finished_seed(folder: Path) -> int | None:
    """Return the seed of a run, which must be finished."""
    path = folder / "run.json"
    if not path.is_file():
        return None  # the table was taken out of its run
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        status, seed = record["status"], record.get("seed")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected the JSON record of a run, got {shown(str(error))}") from error
    if status != "finished":
        raise ValueError(f"{folder} holds an unfinished run; start it again with the same command, then score it")
    return _SEED.check(seed, f"{path}, field 'seed'")


def _rows(table: Path) -> list[list[str]]:
    """Return the rows of a table, its header first; MONAI writes names as they are, so they may hold a comma."""
    size = table.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"{table}: expected at most {_LARGEST >> 20} MB, got {size >> 20} MB")
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: expected a table with commas in UTF-8, got {error}; score the run again") from error
    header = rows[0] if rows else []
    start = ["filename"] if _TABLES[table.name] == DICE else ["image", "label"]
    if len(header) < 3 or len(set(header)) < len(header) or header[: len(start)] != start:
        raise ValueError(f"{table}: expected the header of an evaluation, got {shown(','.join(header))}")
    if len(rows) < 2:
        raise ValueError(f"{table}: expected a row for each case, got none; score the run again")
    return rows


def _class_columns(header: list[str]) -> tuple[str, ...]:
    return tuple(name for name in header[1:] if name != "mean")


def _dice(header: list[str], row: list[str], where: str) -> tuple[str, float, tuple[str, ...]]:
    classes = _class_columns(header)
    extra = len(row) - len(header)
    if extra < 0:
        raise ValueError(f"{where}: expected {len(header)} columns, got {len(row)}; score the run again")
    case, values = ",".join(row[: extra + 1]), row[extra + 1 :]
    numbers = [_share(value, where) for name, value in zip(header[1:], values, strict=True) if name != "mean"]
    defined = [number for number in numbers if not math.isnan(number)]
    score = sum(defined) / len(defined) if defined else math.nan
    return case, score, tuple(name for name, number in zip(classes, numbers, strict=True) if not math.isnan(number))


def _brier(header: list[str], row: list[str], where: str) -> tuple[str, float, tuple[str, ...]]:
    classes = header[2:]
    if len(row) != len(header):
        raise ValueError(f"{where}: expected {len(header)} columns, got {len(row)}; score the run again")
    label = (row[1],) if row[1] in classes else tuple(filter(None, row[1].split("+")))
    if not set(label) <= set(classes):
        raise ValueError(f"{where}: expected a label among {', '.join(classes)}, got {shown(row[1])}")
    errors = [(_share(value, where) - (name in label)) ** 2 for name, value in zip(classes, row[2:], strict=True)]
    return row[0], sum(errors) / len(errors), label


def _share(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"{where}: expected a number, got {shown(text)}; score the run again") from error
    return number if math.isnan(number) else float(_SHARE.check(number, where))


def _repeats(runs: Sequence[RunScores], patients: Mapping[str, str]) -> list[RunScores]:
    """Return the repeats of a procedure, in the order of their first runs."""
    groups: dict[object, list[RunScores]] = {}
    for number, run in enumerate(runs):
        alike = [other for other in runs if other.seed == run.seed and other.scores.keys() == run.scores.keys()]
        alone = run.seed is None or len(alike) > 1
        groups.setdefault(("alone", number) if alone else run.seed, []).append(run)
    return [joined_folds(group, patients) for group in groups.values()]


def _paired(arms: Mapping[str, Sequence[RunScores]]) -> dict[str, list[RunScores]]:
    """Return the repeats of each arm so that those in one place belong together."""
    counts = {name: len(repeats) for name, repeats in arms.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"expected as many repeats of each arm, got {found}; leave out the repeats that one arm lacks")
    seeds = {name: {run.seed for run in repeats} for name, repeats in arms.items()}
    if any(None in held or len(held) < counts[name] for name, held in seeds.items()):
        return {name: list(repeats) for name, repeats in arms.items()}
    (first, wanted), *others = seeds.items()
    for name, held in others:
        if held & wanted and held != wanted:
            lacking = min(seed for seed in wanted - held if seed is not None)
            raise ValueError(
                f"{shown(name)} has no run of seed {lacking}, which {shown(first)} has; train both with the same seeds"
            )
    if any(held != wanted for held in seeds.values()):
        return {name: list(repeats) for name, repeats in arms.items()}
    order = {run.seed: place for place, run in enumerate(arms[first])}
    return {name: sorted(repeats, key=lambda run: order[run.seed]) for name, repeats in arms.items()}


def _check_same_cases(one: RunScores, two: RunScores, first: Mapping[str, str], second: Mapping[str, str]) -> None:
    if one.metric != two.metric:
        raise ValueError(f"{one.folder} has the {one.metric}, {two.folder} the {two.metric}; compare runs of one task")
    for here, there, run, other in ((first, second, one, two), (second, first, two, one)):
        lacking = next((case for case in here if case not in there), None)
        if lacking is not None:
            raise ValueError(
                f"{other.folder} has no score of {shown(lacking)} (patient {shown(patient_of(lacking))}), which "
                f"{run.folder} has; score all runs on the same section"
            )
    for case, path in first.items():
        if one.truth[path] != two.truth[second[case]]:
            raise ValueError(
                f"{two.folder} scored {shown(case)} with another label than {one.folder}: {_told(two, second[case])}, "
                f"not {_told(one, path)}"
            )


def _told(run: RunScores, case: str) -> str:
    return shown("+".join(run.truth[case]) or "none of the classes")


def _check_no_copies(name: str, repeats: Sequence[RunScores]) -> None:
    """Refuse the same scores twice: a copy would make the spread of the repeats seem small.

    A procedure without randomness may give them under another seed, as a ridge does with all labels.
    """
    seen: dict[tuple[float, ...], RunScores] = {}
    for run in repeats:
        values = tuple(-1.0 if math.isnan(run.scores[case]) else run.scores[case] for case in sorted(run.scores))
        other = seen.setdefault(values, run)
        if other is not run and len(set(values)) > 1 and (run.seed is None or run.seed == other.seed):
            raise ValueError(
                f"{run.folder} and {other.folder} have the same scores; the repeats of {shown(name)} must be trainings "
                "of their own, each with another seed"
            )


def _means(owners: Sequence[str], scores: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the patients in sorted order, and the means (runs, N) over their defined cases; NaN without any."""
    names = sorted(set(owners))
    belongs = np.array([[owner == name for name in names] for owner in owners], dtype=float)  # (cases, N)
    there = np.isfinite(scores)
    counts = there.astype(float) @ belongs
    sums = np.where(there, scores, 0.0) @ belongs
    return names, np.where(counts > 0, sums / np.maximum(counts, 1.0), math.nan)
