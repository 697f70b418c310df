# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Cases to show with their label and what a finished run predicts: the best, the median and the worst one."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import LoadImage, Orientation

from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.folder import bundle_folder
from monai_essa.bundling.predict import Prediction, predict
from monai_essa.data import VolumeReader
from monai_essa.outside import printable
from monai_essa.report.charts import COLOURS, figure_png
from monai_essa.report.html import ReportFigure
from monai_essa.report.panels import SegmentationCase, overlay_figure

__all__ = ["ShownCase", "case_figures", "telling_cases"]

_logger = logging.getLogger(__name__)
_OWN_USE = "shown in the owner's report, and deleted: nothing is shared"


@dataclass(frozen=True)
class ShownCase:
    """A case to draw.

    Attributes:
        title: what the report calls it.
        image: path of the image.
        label: path of the label map.
        run: folder of the run that predicts it, which did not train on it.
    """

    title: str
    image: str
    label: str
    run: Path


def telling_cases(worst_first: Sequence[str]) -> dict[str, str]:
    """Choose the best, the median and the worst of the cases that have a score, so that the pictures do not flatter.

    Args:
        worst_first: the cases in that order.

    Returns:
        The cases, by what they are; fewer if there are less than three.

    Example:
        >>> telling_cases(["c", "b", "a"])
        {'best': 'a', 'median': 'b', 'worst': 'c'}
        >>> telling_cases(["c"])
        {'best': 'c'}
    """
    if not worst_first:
        return {}
    chosen = {"best": worst_first[-1], "worst": worst_first[0], "median": worst_first[len(worst_first) // 2]}
    order = ("best", "median", "worst")
    names = [name for name in order if list(chosen.values()).count(chosen[name]) == 1 or name == "best"]
    return {name: chosen[name] for name in names}


def case_figures(
    cases: Mapping[str, ShownCase], classes: Sequence[str], label_map: Mapping[float, int] | None = None
) -> tuple[list[ReportFigure], list[str]]:
    """Predict each case anew by the weights of its run, and draw it.

    Args:
        cases: by what they are, as ``"worst"``.
        classes: names of the classes after the background. More than seven are drawn as one.
        label_map: ids that voxel values of the label maps stand for, where they differ.

    Returns:
        The figures, and a sentence for each case that cannot be drawn, as where its image has been moved.
    """
    figures, missing = [], []
    for kind, case in cases.items():
        try:
            shown = _read(case, label_map or {})
        except (OSError, ValueError, RuntimeError, LookupError, ArithmeticError, MemoryError) as error:
            _logger.warning("the %s case is not drawn: %s", kind, error)
            missing.append(f"The {kind} case, {case.title}, is not drawn: {_public_reason(error)}.")
            continue
        figures.append(_figure(kind, shown, classes))
    return figures, missing


def _figure(kind: str, case: SegmentationCase, classes: Sequence[str]) -> ReportFigure:
    merged = len(classes) > len(COLOURS)
    if merged:
        case = SegmentationCase(case.title, case.image, (case.label > 0) * 1, (case.prediction > 0) * 1, case.spacing)
    names = ["all classes together"] if merged else list(map(printable, classes))
    planes = "axial, coronal and sagittal plane" if case.image.ndim == 3 else "whole image"
    colours = ", ".join(f"{name} {colour}" for name, colour in zip(names, _COLOUR_WORDS, strict=False))
    return ReportFigure(
        figure_png(overlay_figure(case, names)),
        f"The {kind} test case, {case.title}: {planes}. Label and prediction in colour over the image: {colours}.",
        f"Image, label and prediction of the {kind} test case, {planes}.",
    )


_COLOUR_WORDS = ("blue", "vermilion", "green", "pink", "orange", "light blue", "purple")  # of charts.COLOURS


def _read(case: ShownCase, label_map: Mapping[float, int]) -> SegmentationCase:
    with tempfile.TemporaryDirectory() as place:
        written = _predicted(case, Path(place))
        volumes = [_volume(path) for path in (case.image, case.label, str(written))]
    image, label, predicted = (_flat(np.asarray(volume[0])) for volume in volumes)
    label = _mapped(label, label_map)
    if not image.shape == label.shape == predicted.shape:
        raise ValueError(f"image, label and prediction have the shapes {image.shape}, {label.shape}, {predicted.shape}")
    spacing = [float(size) for size in volumes[0].pixdim][: image.ndim]
    return SegmentationCase(case.title, image, label.astype(int), predicted.astype(int), spacing)


def _predicted(case: ShownCase, place: Path) -> Path:
    variant = BundleVariant("shown", run=case.run, permission=_OWN_USE)
    bundle = copy_bundle(bundle_folder("essa_segmentation"), place, variant)
    found = predict(Prediction(str(bundle), {}), [os.path.abspath(case.image)], place / "masks")
    return found[0]


def _volume(path: str) -> Any:
    volume = LoadImage(reader=VolumeReader(), ensure_channel_first=True)(path)
    return Orientation("RAS", labels=None)(volume) if volume.ndim == 4 else volume


def _flat(values: np.ndarray) -> np.ndarray:
    """Return a volume of one slice as an image."""
    return values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values


def _mapped(label: np.ndarray, label_map: Mapping[float, int]) -> np.ndarray:
    mapped = label.copy()
    for value, number in label_map.items():
        mapped[label == value] = number
    return mapped


def _public_reason(error: Exception) -> str:
    """Return why, without a path, since a report travels."""
    if isinstance(error, FileNotFoundError):
        return "a file is no longer there (the run's model.pt, the image or its label)"
    return f"it cannot be read or predicted here ({type(error).__name__}; the log has the reason)"
