# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""report.html of ordinary runs: what each reached, case by case, and what it was made with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_essa.data import listed_label_map
from monai_essa.data.lists.fields import class_ids
from monai_essa.outside import printable
from monai_essa.report.cases import case_figures
from monai_essa.report.charts import figure_png
from monai_essa.report.html import ReportContent, ReportFigure, ReportSection, default_page, write_report
from monai_essa.report.model_card import run_record
from monai_essa.report.study.details import adapter_table, curve_figures, origin_sentence, shown_value
from monai_essa.report.study.figures import ArmPoints, arms_figure
from monai_essa.report.study.results import (
    case_table,
    listed_labels_of,
    probability_figures,
    shown_cases,
    structure_table,
)
from monai_essa.report.study.scores import ArmTable, CaseNames, arm_table
from monai_essa.report.tables import ResultTable

__all__ = ["write_run_report"]

_PICTURES = (  # title, file, caption, text for who cannot see it
    (
        "Reconstruction",
        "reconstruction.png",
        "A scan that it did not train on: original, masked and reconstructed.",
        "Original, masked and reconstructed slices.",
    ),
    (
        "Features",
        "features.png",
        "Scans that it did not train on, and the three principal components of the patch tokens as colours: those of "
        "the base and those after the adaptation. Patches of one colour are alike to the network.",
        "Slices of scans beside the colours of their patch tokens before and after the adaptation.",
    ),
)


@dataclass(frozen=True, eq=False)
class _Run:
    """A run folder as far as it is there."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    table: ArmTable | None

    @property
    def settings(self) -> Mapping[str, Any]:
        found = self.record.get("settings")
        return found if isinstance(found, Mapping) else {}

    def classes(self) -> list[str]:
        """Return the names of the classes that are scored, as far as the run records them."""
        names = list(class_ids(self.settings.get("labels"), f"{self.folder / 'run.json'}, labels"))
        return names[1:] if self.table is not None and self.table.higher_is_better else names


def write_run_report(
    runs: Sequence[Path], out: Path | None = None, datalist: Path | None = None, show_ids: bool = False
) -> Path:
    """Write one page about one or several runs, which need not have been scored or finished.

    Args:
        runs: their folders, each with a run.json.
        out: the HTML file; default: ``report.html`` in the first folder, or ``report_with_ids.html``.
        datalist: of the runs: with it, the best, the median and the worst case of the first run are drawn.
        show_ids: call cases by the names of their files; by default by digests.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if a folder has no run.json, or there is no such data list.
        ImportError: if the extra [report] is not installed.
        ValueError: if a file is damaged, or two runs have tables of different tasks.
    """
    if datalist is not None and not datalist.is_file():
        raise FileNotFoundError(f"{datalist}: no such file; give the data list of the runs")
    read = _read(runs)
    names = CaseNames.of_datalist(datalist, show_ids)
    sections = [
        _result(read, names),
        *_cases(read, names),
        *_details(read[0], names, datalist),
        _curves(read),
        _made_of(read[0]),
    ]
    command = printable(str(read[0].record.get("command", "not recorded")))[:4000]
    content = ReportContent(_title(read), sections, command, _versions(read[0]))
    return write_report(out or runs[0] / default_page(show_ids), content)


def _read(runs: Sequence[Path]) -> list[_Run]:
    names = [folder.absolute().name for folder in runs]
    if len(set(names)) < len(names):
        names = [f"{folder.absolute().parent.name}/{name}" for folder, name in zip(runs, names, strict=True)]
    read = [
        _Run(printable(name), folder, run_record(folder), arm_table([folder]))
        for name, folder in zip(names, runs, strict=True)
    ]
    metrics = {run.table.metric for run in read if run.table is not None}
    if len(metrics) > 1:
        raise ValueError(f"{' and '.join(map(str, runs))}: expected runs of one task, got {' and '.join(metrics)}")
    return read


def _title(read: Sequence[_Run]) -> str:
    return f"Run {read[0].name}" if len(read) == 1 else f"{len(read)} runs"


def _result(read: Sequence[_Run], names: CaseNames) -> ReportSection:
    rows = [[run.name, *_row(run)] for run in read]
    headers = ["run", "status", "mean score", "cases", "trained", "adapter, MB"]
    scored = [run for run in read if run.table is not None]
    text = _told(scored, len(read))
    note = "Trained: parameters that learned, of all."
    return ReportSection("Result", text, [ResultTable("Runs", headers, rows, note)], list(_figure(scored, names)))


def _told(scored: Sequence[_Run], count: int) -> list[str]:
    table = scored[0].table if scored else None
    if table is None:
        return ["No run here has been scored on a test section: run evaluate.yaml to do so."]
    direction = "higher" if table.higher_is_better else "lower"
    text = [f"{table.metric[0].upper()}{table.metric[1:]}, {direction} is better."]
    if count > 1:
        text.append(
            "Whether two procedures differ is a question of repeats and patients: monai-essa compare answers it."
        )
    return text


def _row(run: _Run) -> list[str]:
    status = printable(str(run.record.get("status", "unknown")))[:40]
    values = [value for value in run.table.means().values() if not math.isnan(value)] if run.table else []
    mean = f"{math.fsum(values) / len(values):.3f}" if values else "-"
    adapter = run.folder / "adapter.safetensors"
    size = f"{adapter.stat().st_size / 1e6:.2f}" if adapter.is_file() else "-"
    return [status, mean, str(len(values)) if run.table else "-", _trained(run.folder / "summary.txt"), size]


def _trained(path: Path) -> str:
    """Return what the line of the whole network says in the table of the summary."""
    if not path.is_file():
        return "-"
    rows = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    total = next((row for row in rows if len(row) == 4 and row[0] == "network"), None)
    return "-" if total is None else printable(f"{total[1]} of {total[2]} ({total[3]})")[:60]


def _figure(scored: Sequence[_Run], names: CaseNames) -> Iterator[ReportFigure]:
    points = []
    for run in scored:
        values = list(run.table.by_patient(names).values()) if run.table else []
        points.append(ArmPoints(run.name, values, math.fsum(values) / len(values) if values else math.nan))
    if points and scored[0].table is not None:
        said = "; ".join(f"{point.title} {point.mean:.3f}" for point in points)
        yield ReportFigure(
            figure_png(arms_figure(points, scored[0].table.metric, scored[0].table.higher_is_better)),
            "A dot is a tested patient, the large mark and the number the mean over patients.",
            f"Scores by run and patient. Means: {said}.",
        )


def _cases(read: Sequence[_Run], names: CaseNames) -> Iterator[ReportSection]:
    first = next((run for run in read if run.table is not None), None)
    if first is None or first.table is None:
        return
    others = {run.name: run.table for run in read if run is not first and run.table is not None}
    tables = [case_table(first.table, names, first.classes(), others), *structure_table(first.table)]
    called = "names of files" if names.shown else "digests of patient and case"
    yield ReportSection("Case by case", [f"{first.name}, the worst case first. Cases are called by {called}."], tables)


def _details(run: _Run, names: CaseNames, datalist: Path | None) -> Iterator[ReportSection]:
    if run.table is None:
        yield from _pictures(run.folder)
    elif not run.table.higher_is_better:
        figures, sentence = probability_figures(run.table)
        yield ReportSection("Reliability and ROC", [sentence], figures=figures)
    elif datalist is None:
        text = "Give --datalist FILE, which names the label maps, and the best, median and worst case are drawn."
        yield ReportSection("Best, median and worst case", [text])
    else:
        cases, missing = shown_cases(run.table, names, listed_labels_of(datalist))
        figures, undrawn = case_figures(cases, run.classes() or ["foreground"], listed_label_map(datalist))
        yield ReportSection("Best, median and worst case", [f"{run.name}.", *missing, *undrawn], figures=figures)


def _pictures(folder: Path) -> Iterator[ReportSection]:
    """Show what a run without labels drew of scans that it did not train on."""
    for title, name, caption, said in _PICTURES:
        if (folder / name).is_file():
            figure = ReportFigure((folder / name).read_bytes(), caption, said)
            yield ReportSection(title, figures=[figure])


def _curves(read: Sequence[_Run]) -> ReportSection:
    logs = {run.name: run.folder / "losses.jsonl" for run in read}
    figures, missing = curve_figures(logs, "Training loss", "Training loss of each run over its steps.")
    return ReportSection("Training curves", missing, figures=figures)


def _made_of(run: _Run) -> ReportSection:
    sentences, tables = adapter_table(run.folder / "adapter.safetensors")
    rows = [[printable(str(name)), shown_value(value)[:500]] for name, value in run.settings.items()]
    settings = [ResultTable("Settings", ["", "value"], rows)] if rows else []
    return ReportSection("What it was made with", [origin_sentence(run.folder), *sentences], [*settings, *tables])


def _versions(run: _Run) -> dict[str, str]:
    found = run.record.get("versions")
    named = found.items() if isinstance(found, Mapping) else ()
    return {printable(str(name))[:60]: printable(str(value))[:60] for name, value in list(named)[:20]}
