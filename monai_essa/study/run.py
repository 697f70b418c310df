# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A study from scans to its verdict: the plan is made and frozen once, its stages run, and every start goes on."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
from tqdm import tqdm

from monai_essa.data import check_datalist
from monai_essa.data.lists.fold_files import write_fold_file
from monai_essa.data.lists.read import read_datalist
from monai_essa.devices import check_process_count
from monai_essa.error_line import asks_for_room
from monai_essa.evaluation.baselines.rivals import score_rival
from monai_essa.files import write_text_whole
from monai_essa.outside import Number, printable, shown
from monai_essa.planning.choices import this_computer
from monai_essa.planning.site import image_facts
from monai_essa.planning.study_plan import PLAN, PlannedStage, StudyPlan, read_plan, write_plan
from monai_essa.report.study.page import write_study_report
from monai_essa.study.export import export_study
from monai_essa.study.outcome import write_verdict
from monai_essa.study.plan import draft_study
from monai_essa.study.scans import SiteScans, read_site
from monai_essa.study.splits import partition
from monai_essa.study.stages import follow_folder, quiet_libraries, write_stage
from monai_essa.study.terms.draft import Draft, Surroundings
from monai_essa.study.terms.partition import Scan, partition_sections
from monai_essa.study.terms.protocol import draft_lines, study_plan
from monai_essa.study.terms.request import AdaptRequest, check_values, written_overlays
from monai_essa.study.terms.trials import set_rates
from monai_essa.study.workers import in_child, run_stages, seconds_of, stopped_by_signals, write_cost

__all__ = ["run_study"]

_OURS = {
    "datalist.json",
    "stages",
    "logs",
    "runs",
    ".lock",
    "cache",
    "overlays",
    "rivals",
    "verdict.json",
}  # before there is a plan
_SHOWN = 10  # lines of a long list
_WAIT = 10.0  # seconds for the child of a killed start to end


def run_study(
    request: AdaptRequest, folder: Path, dry_run: bool = False, splits: str | None = None, processes: int = 1
) -> int:
    """Plan a study, run what has not run yet, and write its costs and verdict.

    Args:
        request: of the user.
        folder: of the study; another request than the one that it holds is refused.
        dry_run: print the plan and write nothing.
        splits: plan only, and write who trains and who is tested for another tool: ``nnunet`` or ``csv``.
        processes: among which each training is parted, on a GPU each where there are any; nothing else depends on it.

    Returns:
        0, or 1 if no stage of an arm ended well.

    Raises:
        FileExistsError: if the folder holds other files.
        PermissionError: if the folder cannot be made or written to.
        RuntimeError: if another process works on the study, the disk takes no more, or the plan could not be made.
        ValueError: if the folder holds the study of another request.
    """
    Number(0, 1).check(request.margin, "--margin")
    check_values(request.study)
    if processes != 1:  # in a child, for this process must not touch a GPU before it forks
        in_child(check_process_count, processes)
    folder = folder.absolute()
    if dry_run:
        in_child(_show_draft, request, folder)
        return 0
    _check_folder(folder, request)
    with _alone(folder), asks_for_room(folder), stopped_by_signals():
        if not (folder / PLAN).is_file():
            in_child(_prepare, request, folder)
        plan = read_plan(folder)
        moved = follow_folder(folder)
        if moved is not None:
            _say([f"the study was moved here from {moved}: its stages name this folder now"])
        if splits is not None:
            in_child(_write_splits, folder, splits)
            return 0
        in_child(_score_rivals, request.rivals, folder, plan)
        return _run(folder, plan, processes)


def _run(folder: Path, plan: StudyPlan, processes: int) -> int:
    """Run the stages, reach the verdict, train what it exports on all labels, and hand that over."""
    studied = [stage for stage in plan.stages if stage.kind != "refit"]
    tried = max((place for place, stage in enumerate(studied, 1) if stage.kind == "trial_test"), default=0)
    failures = run_stages(folder, plan, studied[:tried], processes)
    if tried:
        in_child(set_rates, folder)
    failures += run_stages(folder, plan, studied[tried:], processes)
    write_cost(folder, plan)
    exported = in_child(_reach, folder)
    if exported is not None:
        chain = _chain(plan, exported)
        failures += run_stages(folder, plan, chain, processes)
        write_cost(folder, plan)
    refit = None if exported is None or any(seconds_of(folder, stage) is None for stage in chain) else chain[-1].run
    in_child(_hand_over, folder, exported, refit)
    if failures:
        again = f"to try one again, mend the cause, delete its {folder / 'stages'}/NAME.failed and repeat the command"
        _say([f"{len(failures)} stages failed; their output is in {folder / 'logs'}; {again}"])
    return 0 if exported is not None or not plan.arms else 1


def _write_splits(folder: Path, form: str) -> None:
    path = write_fold_file(read_datalist(folder / "datalist.json"), folder, form)
    _say([f"splits: {path}", "next: train the other tool on them, then the same command with --rival NAME=PATH"])


def _score_rivals(rivals: Mapping[str, Path], folder: Path, plan: StudyPlan) -> None:
    """Score what other tools predicted, before anything is trained; a rival that was scored stays as it is."""
    for name, path in rivals.items():
        place = folder / "rivals" / name
        if not (place / "rival.json").is_file():
            blinded = score_rival(path, folder / "datalist.json", plan.images["labels"], place)
            _say([f"rival {name}: {'blinded' if blinded else 'not blinded, without a copy of the splits'}"])


def _reach(folder: Path) -> str | None:
    """Write the verdict, print it, and return the arm that is exported."""
    verdict = json.loads(write_verdict(folder).read_text(encoding="utf-8"))
    if read_plan(folder).arms:
        _say([verdict["sentence"]])
    return None if verdict["exported"] is None else str(verdict["exported"]["name"])


def _chain(plan: StudyPlan, arm: str) -> list[PlannedStage]:
    """Return the stages that train an arm on all labels, in their order."""
    by_name = {stage.name: stage for stage in plan.stages}
    waiting = [stage.name for stage in plan.stages if stage.kind == "refit" and stage.arm == arm][-1:]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting += by_name[name].needs
    return [stage for stage in plan.stages if stage.name in needed]


def _hand_over(folder: Path, arm: str | None, run: str | None) -> None:
    """Write the report and, if the network that it is about was trained, the folder that is handed over."""
    try:
        _say([f"report: {write_study_report(folder)}"])
    except ImportError as error:
        _say([f"no report: {error}"])
    if arm is not None and run is not None:
        with quiet_libraries():
            exported = export_study(folder, arm, folder / "runs" / run)
        _say([f"exported: {exported}"])
    for file in sorted((folder / "runs").glob("*-ssa/adapter.safetensors")) if arm is None else ():
        _say([f"adapted: {file}"])


def _check_folder(folder: Path, request: AdaptRequest) -> None:
    """Refuse a folder that holds another study or other files."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give --out a new folder")
    if not (folder / PLAN).is_file():
        others = sorted(path.name for path in folder.iterdir() if path.name not in _OURS)
        if others:
            raise FileExistsError(f"{folder} holds {shown(others[0])}; give --out a new folder")
        return
    there, here = read_plan(folder).request, request.canonical()
    differing = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{folder} holds a study with {key} {shown(there.get(key))}, not {shown(here.get(key))}: give the same "
            "request to go on with it, or another --out"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a study; children inherit it, so that one of a killed start is waited for."""
    lock = filelock.FileLock(folder / ".lock", timeout=_WAIT)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise RuntimeError(f"{folder}: another process works on this study; wait for its end or stop it") from None
    except OSError as error:
        raise PermissionError(f"{folder} cannot be written to ({error.strerror}); give another --out") from error
    try:
        yield
    finally:
        lock.release()


def _show_draft(request: AdaptRequest, folder: Path) -> None:
    """Print what would run; in a child, since it takes training steps."""
    with tempfile.TemporaryDirectory() as place:
        site, draft = _drafted(request, folder, Path(place))
    _say(draft_lines(draft))


def _prepare(request: AdaptRequest, folder: Path) -> None:
    """Write the data list, the stages and, last of all, the plan; in a child, since it takes training steps."""
    site, draft = _drafted(request, folder, folder)
    for _, stage in draft.stages:
        write_stage(stage, folder)
    plan = study_plan(request, site, draft)
    _say(draft_lines(draft))
    write_plan(plan, folder)
    write_verdict(folder)  # the protocol alone: it is on file before the first stage


def _drafted(request: AdaptRequest, folder: Path, place: Path) -> tuple[SiteScans, Draft]:
    """Read and check the scans, and draft the study; the data list is written into ``place``."""
    site = read_site(request.scans, request.labels, request.task)
    _say(f"left out: {line}" for line in site.left_out[:_SHOWN])
    split = replace(request.split, test_patients=site.test_patients, num_classes=_class_count(site))
    parts = partition(site.scans, split)
    sections = partition_sections(parts)
    about: dict[str, Any] = {"labels": {str(number): name for name, number in site.classes.items()}}
    about["label_map"] = {f"{value:g}": number for value, number in site.label_map.items()}
    if site.label_map:
        _say([f"values of the label maps stand for ids: {about['label_map']}"])
    about = {key: value for key, value in about.items() if value}
    _check_data(site.scans, about)
    write_text_whole(place / "datalist.json", json.dumps(about | sections) + "\n")
    _say(parts.sentences)
    facts = image_facts([scan.image for scan in site.scans], site.channels, str(request.scans))
    computer = this_computer(folder, request.memory)
    overlays = written_overlays(request.study, site.task or "segmentation", place)
    return site, draft_study(request.study, Surroundings(site, parts, facts, computer, folder, overlays))


def _class_count(site: SiteScans) -> int | None:
    return len(site.classes) if site.task == "classification" and not site.several else None


def _check_data(scans: Sequence[Scan], about: Mapping[str, Any]) -> None:
    """Stop at files that training would stop at: each is read once."""
    sections: dict[str, list[dict[str, Any]]] = {"training": [], "unlabeled": []}
    for scan in scans:
        label = {} if scan.label is None else {"label": scan.label}
        sections["training" if label else "unlabeled"].append({"image": scan.image, "patient": scan.patient} | label)
    with tempfile.TemporaryDirectory() as place:
        listed = Path(place) / "datalist.json"
        write_text_whole(listed, json.dumps({**about, **sections}))
        check = check_datalist(listed, [name for name, items in sections.items() if items])
    counts = Counter(problem.severity for problem in check.problems)
    if check.errors:
        _say(map(str, check.errors[:_SHOWN]))
        raise ValueError(f"the data has {counts['error']} errors; correct or leave out the files that are named above")
    _say([f"data: {len(scans)} scans read, no error, {counts['warning']} warnings"])


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        tqdm.write(printable(line))
