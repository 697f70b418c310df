# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a study rests on: training curves, what was loaded, data, what differs from the base, how to run it again."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai
import torch

from monai_essa import __version__
from monai_essa.adapters.difference import compare_adapters
from monai_essa.adapters.file import read_adapter
from monai_essa.adapters.record import methods_text
from monai_essa.licence import ORIGIN, licence_line
from monai_essa.outside import printable
from monai_essa.planning.study_plan import PlannedStage
from monai_essa.report.charts import figure_png, loss_curves, read_loss_log
from monai_essa.report.html import ReportFigure, ReportSection
from monai_essa.report.model_card import run_record
from monai_essa.report.study.folder import StudyFolder
from monai_essa.report.tables import ResultTable

__all__ = [
    "adapter_table",
    "again",
    "curve_figures",
    "detail_sections",
    "loaded_table",
    "origin_sentence",
    "shown_value",
    "versions",
]

_HEAD = re.compile(r"\(sha256 ([0-9a-f]{6,64}), keys '([^']*)', prefix '[^']*'\): ([\d.]+)% of the encoder loaded")
_ROW = re.compile(r"^  (\w+) +(\d+) tensors +([\d,]+) values *(.*)$")
_LARGEST_LOG = 64 << 20
_PATH = re.compile(r"[/\\]")
_NOT_ASKED = ("scans", "out", "dry_run", "overlay", "further_labels", "label_count")  # that have their own place


def detail_sections(study: StudyFolder, arm: str | None) -> list[ReportSection | None]:
    """Return the sections below the results.

    Args:
        study: the folder.
        arm: that the results are about; None if nothing was tested.

    Returns:
        Each section; None in the place of one that such a study lacks.
    """
    return [_rates(study), _curves(study), _loaded(study), _data(study), _difference(study, arm)]


def again(study: StudyFolder) -> str:
    """Return the command that makes the study again; it names no folder, since a report travels.

    Args:
        study: the folder.
    """
    words = ["monai-essa adapt SCANS", *(["--overlay OVERLAY"] if "overlay" in study.request else [])]
    counts = [study.request.get("label_count"), *study.request.get("further_labels", [])]
    request = {name: value for name, value in study.request.items() if name not in _NOT_ASKED}
    for name, value in (request | {"label_count": counts if counts != [None] else None}).items():
        if value is None or value is False:
            continue
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            words += [f"{key}={_without_path(item)}" for key, item in value.items()]
        elif isinstance(value, list):
            words += [f"{option} {' '.join(_without_path(item) for item in value)}"] if value else []
        else:
            words.append(option if value is True else f"{option} {_without_path(value)}")
    first = study.stages[0].name if study.stages else "NAME"
    return (
        f"{' '.join(words)} --out NEW_FOLDER\n# one stage alone, from the folder of the study\n"
        f"python -m monai.bundle run --args_file stages/{first}.yaml"
    )


def versions(study: StudyFolder) -> dict[str, str]:
    """Return the versions that the runs were made with, or those of this installation without a run.

    Args:
        study: the folder.
    """
    for stage in study.stages:
        if (study.run(stage) / "run.json").is_file():
            found = run_record(study.run(stage)).get("versions")
            if isinstance(found, dict) and found:
                return {printable(str(name)): printable(str(value))[:60] for name, value in list(found.items())[:20]}
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "monai": monai.__version__,
        "monai_essa": __version__,
    }


def curve_figures(logs: Mapping[str, Path], title: str, alt: str) -> tuple[list[ReportFigure], list[str]]:
    """Draw the losses of some runs in one figure, and say of which there is no log.

    Args:
        logs: ``losses.jsonl`` of each run, by what the legend calls it.
        title: of the figure.
        alt: the same for readers who cannot see it.
    """
    read, missing = {}, []
    for name, path in logs.items():
        try:
            log = read_loss_log(path)
        except (OSError, ValueError):
            missing.append(f"{name}: no log of its losses.")
            continue
        if "loss" in log and {"iteration", "epoch"} & set(log):
            read[name] = log
    if not read:
        return [], missing
    figure = ReportFigure(figure_png(loss_curves(read, title=title)), f"{title}, the mean of each epoch.", alt)
    return [figure], missing


def loaded_table(log: Path) -> tuple[str, ResultTable | None]:
    """Find the report of ``load_weights`` in the log of a stage.

    Args:
        log: the file.

    Returns:
        A sentence, and a row for what became of each kind of tensor; None if the log has no such report.
    """
    if not log.is_file() or log.stat().st_size > _LARGEST_LOG:
        return "There is no log of what was loaded.", None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [(number, head) for number, line in enumerate(lines) if (head := _HEAD.search(line)) is not None]
    if not found:
        return "No weights were loaded, or the log does not say so.", None
    start, head = found[0]
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("  "):
            break
        if (row := _ROW.match(line)) is not None:
            rows.append([printable(part)[:300] for part in row.groups()])
    digest, keys, share = head.groups()
    sentence = f"{share} % of the encoder's tensors were loaded from a file with the sha256 {digest} (keys '{keys}')."
    table = ResultTable("What became of the tensors", ["", "tensors", "values", "why"], rows) if rows else None
    return printable(sentence), table


def origin_sentence(run: Path) -> str:
    """Return family and licence of the base that a run started from, or say that they were not recorded.

    Args:
        run: the run folder.

    Raises:
        ValueError: if run.json is damaged.
    """
    origin = run_record(run).get("base") if (run / "run.json").is_file() else None
    if origin is None:
        return "The licence of the base was not recorded: weights of your own have the licence that you give them."
    checked = ORIGIN.check(origin, f"{run / 'run.json'}, field 'base'")
    return f"Base: {checked['family'] or 'a file of an unknown family'}, licence {licence_line(checked)}."


def adapter_table(path: Path, before: Path | None = None) -> tuple[list[str], list[ResultTable]]:
    """Say what an adapter file changes in its base, and how far it is from the adapter that it started from.

    Args:
        path: the adapter file.
        before: the adapter file of the stage before; default: none.

    Returns:
        Sentences, and a table of the tensors that moved most.
    """
    if not path.is_file():
        return ["There is no adapter file, so every tensor of the network may differ."], []
    file = read_adapter(path)
    values = sum(tensor.numel() for tensor in file.tensors.values())
    frozen = len(file.record["fingerprint"])
    sentences = [
        f"The adapter holds {len(file.tensors)} tensors with {values:,} values, by {methods_text(file.record)}; "
        f"{frozen} tensors of the encoder are the base's, bit by bit."
    ]
    if before is None or not before.is_file():
        return sentences, []
    found = compare_adapters(read_adapter(before), file)
    moved = sorted((t for t in found.tensors if t.relative is not None), key=lambda t: -(t.relative or 0.0))[:12]
    rows = [[t.name, " x ".join(map(str, t.shape)), f"{t.relative:.3g}"] for t in moved]
    sentences.append(
        f"From the adapter of SSA to that of the task, the values that both hold moved by {found.total:.3g}."
    )
    note = "|B - A| / |A|: A the adapter of SSA, B that of the task; the twelve largest."
    return sentences, [
        ResultTable("Tensors that moved most", ["tensor", "shape", "moved by"], rows, note)
    ] if rows else []


def _rates(study: StudyFolder) -> ReportSection | None:
    """Tell what each arm scored at each learning rate on the patients that were set aside to try it."""
    multipliers = study.protocol.get("multipliers") or []
    tried = [row for row in study.arms if row["tried"] and len(row["tried"]) == len(multipliers)]
    if not tried:
        return None
    headers = ["arm", *(f"{multiplier:.3g} x the default" for multiplier in multipliers), "taken"]
    rows = [
        [
            study.title(row["name"]),
            *("failed" if score is None else f"{score:.3f}" for score in row["tried"]),
            "-" if row["rate"] is None else f"{row['rate']:.3g} x",
        ]
        for row in tried
    ]
    note = f"{study.protocol.get('metric', 'Score')} on the patients that were set aside; one training each."
    said = [str(study.protocol.get("rates", "")), "The trials are no part of the verdict."]
    return ReportSection("Learning rates", list(filter(None, said)), [ResultTable("Trials", headers, rows, note)])


def _curves(study: StudyFolder) -> ReportSection:
    supervised = {
        study.title(stage.arm): study.run(stage) / "losses.jsonl" for stage in _first(study, "train") if stage.arm
    }
    pretext = {_named(study, stage): study.run(stage) / "losses.jsonl" for stage in _before(study)}
    figures, missing = [], []
    for logs, title in ((supervised, "Supervised training"), (pretext, "Before the labels")):
        drawn, lacking = curve_figures(logs, f"{title}: loss", f"Loss over the steps, {title.lower()}.")
        figures += drawn
        missing += lacking
    text = ["The first repeat and fold of each arm."] if figures else ["No run has a log of its losses."]
    return ReportSection("Training curves", [*text, *missing], figures=figures)


def _loaded(study: StudyFolder) -> ReportSection:
    stages = [*study.of("base"), *_before(study), *_first(study, "train")]
    for stage in stages:
        sentence, table = loaded_table(study.path / "logs" / f"{stage.name}.log")
        if table is not None:
            said = f"{_named(study, stage)}: {sentence}"
            return ReportSection("What was loaded", [said, origin_sentence(study.run(stage))], [table])
    return ReportSection("What was loaded", ["No log of a stage says which weights were loaded."])


def _data(study: StudyFolder) -> ReportSection:
    images, protocol = study.images, study.protocol
    rows = [[name, shown_value(value)] for name, value in images.items() if value is not None]
    facts = {
        "design": protocol.get("design"),
        "labelled patients": protocol.get("labels"),
        "tested patients": protocol.get("patients"),
        "scans for SSA": protocol.get("unlabeled"),
    }
    rows = [[name, shown_value(value)] for name, value in facts.items() if value is not None] + rows
    text = "The data were checked before the first stage; a study does not start on data with errors."
    tables = [ResultTable("Data and preprocessing", ["", "value"], rows)] if rows else []
    return ReportSection("Data", [text], tables)


def _difference(study: StudyFolder, arm: str | None) -> ReportSection:
    title = "What differs from the base"
    trainings = [stage for stage in (study.of("train", arm) if arm else []) if study.run(stage).is_dir()]
    if not trainings:
        return ReportSection(title, ["No trained network is shown here."])
    earlier = [stage for stage in study.stages if stage.name in trainings[0].needs and stage.kind in ("ssa", "tpp")]
    before = study.run(earlier[0]) / "adapter.safetensors" if earlier else None
    sentences, tables = adapter_table(study.run(trainings[0]) / "adapter.safetensors", before)
    return ReportSection(title, [f"{study.title(arm or '')}, first repeat.", *sentences], tables)


def _first(study: StudyFolder, kind: str) -> list[PlannedStage]:
    """Return the first stage of a kind for each arm."""
    first: dict[str | None, PlannedStage] = {}
    for stage in study.of(kind):
        first.setdefault(stage.arm, stage)
    return list(first.values())


def _before(study: StudyFolder) -> list[PlannedStage]:
    return [stage for kind in ("base", "ssa", "tpp") for stage in _first(study, kind)]


def _named(study: StudyFolder, stage: PlannedStage) -> str:
    kinds = {"base": "pre-training of the base", "ssa": "SSA", "tpp": "TPP"}
    if stage.kind == "ssa" and stage.arm == "full_ssa":
        return "full-parameter SSA"
    return kinds.get(stage.kind) or study.title(stage.arm or stage.kind)


def _without_path(value: Any) -> str:
    text = shown_value(value)
    if _PATH.search(text) and not re.match(r"(family|bundle):[\w.-]+$", text):
        return "PATH"
    return f"'{text}'" if re.search(r"\s", text) else text


def shown_value(value: Any) -> str:
    """Return a plain value of a record as text on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {shown_value(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(shown_value, value)) + "]"
    return printable(str(value))
