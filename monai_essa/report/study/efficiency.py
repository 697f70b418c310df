# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A page about several studies of one site that trained on different numbers of labelled patients."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_essa.report.charts import figure_png
from monai_essa.report.html import ReportContent, ReportFigure, ReportSection, write_report
from monai_essa.report.study.details import again, versions
from monai_essa.report.study.figures import efficiency_figure
from monai_essa.report.study.folder import StudyFolder, read_study
from monai_essa.report.tables import ResultTable

__all__ = ["efficiency_section", "write_efficiency_report"]

_Point = tuple[int, float, float, float]


def write_efficiency_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write a page with the mean of each arm over the number of labels, and the verdict of each study.

    Args:
        folders: of the studies.
        out: the HTML file; default: ``report.html`` in the folder above the first.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if a folder has no plan.yaml.
        ImportError: if the extra [report] is not installed.
        ValueError: if a file of a study is damaged, or the studies differ in task or metric.
    """
    studies = sorted((read_study(folder) for folder in folders), key=_labels)
    _check_alike(studies)
    titles = list(dict.fromkeys(study.title(row["name"]) for study in studies for row in study.arms))
    by_count: dict[int, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for study in studies:
        by_count[_labels(study)] |= {study.title(row["name"]): row for row in study.arms}
    metric = str(studies[0].protocol.get("metric", "score"))
    note = f"{metric}, with the 95 % interval of each arm alone; whether two arms differ is said by each study."
    sections = [_curves(titles, by_count, metric, note), *map(_verdict, studies)]
    commands = "\n".join(again(study).splitlines()[0] for study in studies)
    content = ReportContent("Label efficiency", sections, commands, versions(studies[0]))
    return write_report(out or folders[0].absolute().parent / "report.html", content)


def efficiency_section(study: StudyFolder) -> ReportSection | None:
    """Return the curves of a study that trained on several numbers of labels; None of any other.

    Args:
        study: with its verdict.
    """
    if not study.efficiency:
        return None
    by_count = {_labels(study): study.arms, **study.efficiency}
    titled = {count: {study.title(row["name"]): row for row in rows} for count, rows in by_count.items()}
    titles = [
        study.title(row["name"])
        for row in study.arms
        if any(study.title(row["name"]) in each for each in list(titled.values())[1:])
    ]
    metric = str(study.protocol.get("metric", "score"))
    note = (
        f"{metric}, with the 95 % interval of each arm alone. The verdict is about {_labels(study)} labels; with the "
        "others the arms are only described."
    )
    return _curves(titles, titled, metric, note)


def _check_alike(studies: Sequence[StudyFolder]) -> None:
    for key in ("task", "metric"):
        values = {str(study.protocol.get(key)) for study in studies}
        if len(values) > 1:
            raise ValueError(f"expected studies of one {key}, got {' and '.join(sorted(values))}")


def _labels(study: StudyFolder) -> int:
    count = study.protocol.get("labels")
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{study.path / 'plan.yaml'}: expected the number of labelled patients, got {count!r}")
    return count


def _curves(
    titles: Sequence[str], by_count: Mapping[int, Mapping[str, Mapping[str, Any]]], metric: str, note: str
) -> ReportSection:
    """Draw the mean of each arm over the number of labels, from the rows of verdicts by count and title."""
    counts = sorted(by_count)
    curves: dict[str, list[_Point]] = defaultdict(list)
    for title in titles:
        for count in counts:
            row = by_count[count].get(title)
            if row is not None and row["mean"] is not None:
                curves[title].append((count, row["mean"], *_ends(row)))
    by_title = {title: {point[0]: point for point in points} for title, points in curves.items()}
    rows = [[title, *(_cell(points.get(count)) for count in counts)] for title, points in by_title.items()]
    text = "The mean of each arm, by the number of labelled patients that it was trained on."
    tables = [ResultTable("Mean by number of labels", ["arm", *map(str, counts)], rows, note)] if rows else []
    return ReportSection("Label efficiency", [text], tables, list(_figure(curves, metric)))


def _figure(curves: Mapping[str, Sequence[_Point]], metric: str) -> Iterator[ReportFigure]:
    if curves:
        said = "; ".join(
            f"{title}: {', '.join(f'{mean:.3f} with {count}' for count, mean, *_ in points)}"
            for title, points in curves.items()
        )
        yield ReportFigure(
            figure_png(efficiency_figure(curves, metric)),
            "Means and 95 % intervals over the number of labelled patients, on a logarithmic scale; arms of one number "
            "stand side by side.",
            f"Mean of each arm by the number of labels. {said}.",
        )


def _verdict(study: StudyFolder) -> ReportSection:
    return ReportSection(f"With {_labels(study)} labelled patients", [study.sentence or "There is no verdict yet."])


def _ends(row: Mapping[str, Any]) -> tuple[float, float]:
    low, high = (math.nan if row[name] is None else float(row[name]) for name in ("low", "high"))
    return low, high


def _cell(point: _Point | None) -> str:
    if point is None:
        return "-"
    _, mean, low, high = point
    return f"{mean:.3f}" if math.isnan(low) else f"{mean:.3f} ({low:.3f} to {high:.3f})"
