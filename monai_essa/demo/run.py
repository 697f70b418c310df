# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Run the demo from scans to a report: what ran, the results, and the commands that repeat it."""

from __future__ import annotations

import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import monai
import torch
from tqdm import tqdm

from monai_essa import __version__
from monai_essa.adapters.summary import summary
from monai_essa.data import load_datalist
from monai_essa.demo.cohort import GENERATOR_VERSION
from monai_essa.demo.data import DemoData, cohort_data, own_data
from monai_essa.demo.outcome import (
    TrainedStage,
    comparison_table,
    majority_vote_dice,
    mean_by_case,
    read_case,
    read_dice,
    stages_table,
    telling_cases,
)
from monai_essa.demo.stages import DemoPlan, DemoSize
from monai_essa.report.charts import dice_by_case, figure_png, loss_curves
from monai_essa.report.html import ReportContent, ReportFigure, ReportSection, write_report
from monai_essa.report.panels import SegmentationCase, segmentations
from monai_essa.report.tables import MethodResult, ResultTable, format_table, results_table
from monai_essa.study.stages import Stage, quiet_libraries, run_stage, stage_command, stage_file, write_stage

__all__ = ["REMARKS", "DemoOutcome", "commands", "demo_content", "outcome_table", "run_demo"]

_METHODS = ("after SSA", "without SSA", "random start")  # in the order of DemoPlan.segmentations
_BAR = "{desc} |{bar}| {n_fmt} of {total_fmt} [{elapsed}]"
_CAUTION = (
    "One seed, a small network and a few minutes of training: the numbers show that every step runs and what it costs, "
    "not which start is better on other data. The convolutions of a UNETR see the image at full resolution and learn "
    "from the labels whatever the start, so a better encoder can change little here."
)
_FLOOR = (
    "The majority vote lays the label maps of the training cases over a test case without looking at its image: "
    "a floor that a network should pass."
)
REMARKS = (_FLOOR, _CAUTION)


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


@dataclass(frozen=True)
class DemoOutcome:
    """Hold everything that the report shows.

    Args:
        plan: plan of the demo.
        pretext: the finished pre-training and SSA.
        segmentations: the finished segmentations.
        results: results of the segmentations, in that order, then of the majority vote.
        cases: test cases to show.
    """

    plan: DemoPlan
    pretext: Sequence[TrainedStage]
    segmentations: Sequence[TrainedStage]
    results: Sequence[MethodResult]
    cases: Sequence[SegmentationCase]


def outcome_table(outcome: DemoOutcome) -> ResultTable:
    """Tabulate the results, with a note on what their seconds include.

    Args:
        outcome: outcome of the demo.

    Returns:
        The table.
    """
    table = results_table(outcome.results)
    ssa = outcome.pretext[-1]
    note = (
        f"{table.note} Seconds: training of the segmentation, and in the row '{outcome.results[0].name}' the "
        f"{ssa.seconds:.1f} s of the SSA as well; the pre-training comes before both. Adapter: encoder tensors that "
        f"the method trained, decoder and head; the adapter of the SSA alone has {ssa.adapter_bytes / 1e6:.2f} MB."
    )
    return ResultTable(table.title, table.headers, table.rows, note)


def commands(plan: DemoPlan) -> list[str]:
    """List the commands that repeat the demo, as a whole and stage by stage.

    Args:
        plan: plan of the demo.

    Returns:
        Lines for a shell. The folder of the user's data is not named, since the report may be passed on.
    """
    data = [] if plan.data.template_derived else ["--data", "DIR"]
    whole = ["monai-essa", "demo", *data, "--output", plan.output.as_posix(), "--seed", str(plan.seed)]
    again = plan.output.with_name(f"{plan.output.name}_again")
    return [
        "# what ran; a finished folder is never written over, so give another one to run it again",
        shlex.join(whole),
        "# stage by stage, from the same place; each file holds the keys that a site would set",
        *(stage_command(stage_file(stage, plan.output), again / stage.name) for stage in plan.training()),
        "# Dice of the test cases",
        *(stage_command(stage_file(plan.evaluation(stage), plan.output)) for stage in plan.segmentations()),
    ]


def demo_content(outcome: DemoOutcome) -> ReportContent:
    """Compose the report.

    Args:
        outcome: outcome of the demo.

    Returns:
        The content for :func:`~monai_essa.report.html.write_report`.
    """
    plan = outcome.plan
    versions = {
        "monai_essa": __version__,
        "monai": monai.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if plan.data.template_derived:
        versions["cohort generator"] = str(GENERATOR_VERSION)
    return ReportContent(
        title="monai-essa demo: few labels, with and without self-supervised adaptation",
        sections=[_result(outcome), _what_ran(outcome), _pretext(outcome), _segmentation(outcome)],
        command="\n".join(commands(plan)),
        versions=versions,
        template_derived=plan.data.template_derived,
    )


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


def _result(outcome: DemoOutcome) -> ReportSection:
    figure = ReportFigure(
        figure_png(dice_by_case({result.name: result.dice for result in outcome.results})),
        "Each dot is a test case, a thin line joins the dots of one case, a bar is the mean.",
        "Dice of each test case by class and method.",
    )
    tables = [outcome_table(outcome), comparison_table(outcome.results)]
    return ReportSection("Result", REMARKS, tables, [figure])


def _what_ran(outcome: DemoOutcome) -> ReportSection:
    path = (
        "A small ViT is pre-trained from nothing by masked autoencoding. SSA adapts it to the unlabelled target scans "
        "by APLA, which trains the output projections of the attention and nothing else. A UNETR around that ViT then "
        "learns the labels. Without SSA the same UNETR starts from the pre-trained ViT; from a random start every "
        "parameter learns. Labels, decoder and number of steps are the same."
    )
    table = stages_table([*outcome.pretext, *outcome.segmentations])
    return ReportSection("What ran", [*outcome.plan.data.about, path], [table])


def _pretext(outcome: DemoOutcome) -> ReportSection:
    logs = {trained.stage.title: trained.log for trained in outcome.pretext}
    curves = ReportFigure(
        figure_png(loss_curves(logs, title="Masked autoencoding: mean loss of each epoch")),
        "Mean squared error of the masked patches, each normalised to mean 0 and variance 1. SSA goes on with the "
        "decoder of the pre-training, on other scans.",
        "Loss of pre-training and of SSA over the steps.",
    )
    pictures = [_reconstruction(trained) for trained in outcome.pretext]
    held_out = outcome.pretext[-1].log["validation.loss"]
    ssa = (
        "On target scans that SSA did not train on, under masks that stay the same, the loss went from "
        f"{held_out[0]:.3f} after its first epoch to {held_out[-1]:.3f} after its last."
    )
    return ReportSection("Before the labels", [ssa], figures=[curves, *pictures])


def _reconstruction(trained: TrainedStage) -> ReportFigure:
    return ReportFigure(
        (trained.folder / "reconstruction.png").read_bytes(),
        f"{trained.stage.title}: a scan that it did not train on; three quarters of the patches are masked.",
        f"Original, masked and reconstructed slices, {trained.stage.title}.",
    )


def _segmentation(outcome: DemoOutcome) -> ReportSection:
    logs = {result.name: trained.log for result, trained in zip(outcome.results, outcome.segmentations, strict=False)}
    dice = {name: _validation_dice(log) for name, log in logs.items()}
    curves = [
        ReportFigure(
            figure_png(loss_curves(logs, title="Dice and cross-entropy loss: mean of each epoch")),
            "Training loss of the segmentations.",
            "Loss of the segmentations over the steps.",
        ),
        ReportFigure(
            figure_png(loss_curves(dice, "Dice", "Dice of the validation cases")),
            "Mean Dice of the validation cases after each epoch; the best epoch is kept.",
            "Validation Dice of the segmentations over the steps.",
        ),
    ]
    shown = ReportFigure(
        figure_png(segmentations(outcome.cases, list(outcome.results[0].dice))),
        f"The test cases with the highest and the lowest mean Dice, {outcome.results[0].name}, in the axial plane "
        "that holds most of the label.",
        "Image, label and prediction of two test cases.",
    )
    return ReportSection("With the labels", figures=[*curves, shown])


def _validation_dice(log: Mapping[str, Any]) -> dict[str, Any]:
    return {"iteration": log["iteration"], "Dice": log["validation.val_mean_dice"]}
