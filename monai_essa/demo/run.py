# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Run the demo from scans to a report."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from monai_essa.adapters.summary import summary
from monai_essa.data import load_datalist
from monai_essa.demo.data import DemoData, cohort_data, own_data
from monai_essa.demo.outcome import (
    TrainedStage,
    comparison_table,
    majority_vote_dice,
    mean_by_case,
    read_case,
    read_dice,
    telling_cases,
)
from monai_essa.demo.report import REMARKS, DemoOutcome, demo_content, outcome_table
from monai_essa.demo.stages import DemoPlan, DemoSize, Stage, run_stage, write_stage
from monai_essa.report.html import write_report
from monai_essa.report.panels import SegmentationCase
from monai_essa.report.tables import MethodResult, format_table

__all__ = ["quiet_libraries", "run_demo"]

_METHODS = ("after SSA", "without SSA", "random start")  # in the order of DemoPlan.segmentations
_BAR = "{desc} |{bar}| {n_fmt} of {total_fmt} [{elapsed}]"
# The workflows of monai.bundle warn that no logging.conf is applied, which is the point here.
_LEVELS = {
    "monai": logging.WARNING,
    "monai.bundle.workflows": logging.ERROR,
    "monai.data.image_writer": logging.WARNING,  # it has a level and a handler of its own
    "monai_essa": logging.WARNING,
    "ignite": logging.WARNING,
}


def run_demo(data: Path | None, output: Path, seed: int, size: DemoSize | None = None) -> int:
    """Pre-train, adapt, segment with few labels, with and without the adaptation, and report.

    Every stage is a run of a shipped bundle in this process; ``output/stages`` holds its values. The tables go to
    standard output, everything else into ``output``.

    Args:
        data: an MSD-style folder; None for the template-derived cohort.
        output: a new folder.
        seed: seed of the data and of every run.
        size: size of the demo; default ``DemoSize()``, less than five minutes on two cores.

    Returns:
        0.

    Raises:
        FileExistsError: if ``output`` holds files.
        ImportError: if the extra [demo] is not installed.
        ValueError: if ``data`` does not fit the demo, or a bundle refuses it.
    """
    _check(data, output)
    size = size or DemoSize()
    output.mkdir(parents=True, exist_ok=True)
    with quiet_libraries():
        tqdm.write("making the demo cohort" if data is None else "reading the scans")
        demo_data = _data(data, output, size, seed)
        outcome = _run_stages(DemoPlan(demo_data, size, output, seed))
        report = write_report(output / "report.html", demo_content(outcome))
    for table in (outcome_table(outcome), comparison_table(outcome.results)):
        tqdm.write("\n".join(["", table.title, format_table(table.headers, table.rows), table.note]))
    tqdm.write("\n".join(["", *REMARKS, "", f"report: {report}"]))
    return 0


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Let the libraries log only warnings and errors, and hide Python's warnings, within the context.

    Afterwards the levels, the warnings and ``sys.excepthook``, which the bundles set, are restored.

    Example:
        >>> with quiet_libraries():
        ...     logging.getLogger("ignite").getEffectiveLevel() == logging.WARNING
        True
    """
    before = {name: logging.getLogger(name).level for name in _LEVELS}
    hook = sys.excepthook
    try:
        for name, level in _LEVELS.items():
            logging.getLogger(name).setLevel(level)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.excepthook = hook
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _check(data: Path | None, output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} holds files already: give --output a new folder, or delete this one")
    needed = ("matplotlib", "jinja2") if data is not None else ("nilearn", "matplotlib", "jinja2")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ImportError(f'the demo needs {" and ".join(missing)}: pip install "monai_essa[demo]"')


def _data(folder: Path | None, output: Path, size: DemoSize, seed: int) -> DemoData:
    if folder is None:
        return cohort_data(output / "cohort", size.cohort, seed)
    return own_data(folder, output / "datalist.json", size.cohort, size.img_size, seed)


def _run_stages(plan: DemoPlan) -> DemoOutcome:
    pretext, segmentations = [plan.pretraining(), plan.adaptation()], plan.segmentations()
    with tqdm(total=len(pretext) + 2 * len(segmentations) + 1, bar_format=_BAR, disable=None) as bar:
        before = [_train(stage, plan, bar) for stage in pretext]
        after = [_train_and_test(stage, plan, bar) for stage in segmentations]
        results = _results(plan, before[-1], after)
        bar.set_description("pictures and floor")
        cases = _cases(plan, results[0])
        bar.update()
    return DemoOutcome(plan, before, after, [*results, _floor(plan, results[0])], cases)


def _train(stage: Stage, plan: DemoPlan, bar: tqdm) -> TrainedStage:
    bar.set_description(stage.title)
    parser, seconds = run_stage(write_stage(stage, plan.output))
    trained = TrainedStage(stage, seconds, summary(parser.get_parsed_content("network")))
    bar.write(f"{stage.title}: {trained.learned.trainable:,} parameters trained in {seconds:.1f} s")
    bar.update()
    return trained


def _train_and_test(stage: Stage, plan: DemoPlan, bar: tqdm) -> TrainedStage:
    trained = _train(stage, plan, bar)
    test = plan.evaluation(stage)
    bar.set_description(test.title)
    run_stage(write_stage(test, plan.output))
    bar.update()
    return trained


def _results(plan: DemoPlan, ssa: TrainedStage, segmentations: Sequence[TrainedStage]) -> list[MethodResult]:
    classes = list(plan.data.card.labels)[1:]
    extra_seconds = (ssa.seconds, 0.0, 0.0)  # the pre-training comes before two of the three and is not counted
    return [
        MethodResult(
            name=name,
            dice=read_dice(trained.folder / "test" / "dice_raw.csv", classes),
            trainable=trained.learned.trainable,
            total=trained.learned.total,
            seconds=trained.seconds + extra,
            adapter_bytes=trained.adapter_bytes,
        )
        for name, trained, extra in zip(_METHODS, segmentations, extra_seconds, strict=True)
    ]


def _floor(plan: DemoPlan, network: MethodResult) -> MethodResult:
    start = time.perf_counter()
    dice = majority_vote_dice(plan.data)
    return MethodResult("majority vote", dice, 0, network.total, time.perf_counter() - start)


def _cases(plan: DemoPlan, result: MethodResult) -> list[SegmentationCase]:
    items = load_datalist(plan.data.datalist, plan.data.sections["test"])
    means = mean_by_case(result.dice)
    cases = []
    for number in telling_cases(result.dice):
        stage = plan.prediction(plan.segmentations()[0], items[number]["image"], f"prediction_{number + 1}")
        run_stage(write_stage(stage, plan.output))
        (written,) = (path for path in (plan.output / stage.name).iterdir() if path.is_file())
        cases.append(read_case(f"case {number + 1}, mean Dice {means[number]:.2f}", items[number], written))
    return cases
