# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a plan trains on: stage, spacing and patch, each a function of the facts alone, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_essa.efficiency.site_facts import SiteFacts

__all__ = ["FEW_LABELS", "Choice", "patch_choice", "spacing_choice", "stage_choice"]

FEW_LABELS = 10  # with fewer, adapt the encoder to all scans before the labels are used
_SIDE = 96  # voxels of a patch: what public weights of MONAI's networks were trained on
_STEPS = {"vit": 16, "unetr": 16, "swin_unetr": 32, "segresnet": 16}  # voxels that a patch side is a multiple of
_COARSEST = 1.5  # mm, the usual spacing of public CT networks


@dataclass(frozen=True)
class Choice:
    """A value of the plan, and why."""

    value: Any
    reason: str


def stage_choice(facts: SiteFacts, wanted: str | None = None) -> Choice:
    """Choose the bundle: SSA where labels are absent or few, else segmentation.

    Args:
        facts: of the site.
        wanted: ``ssa`` or ``segmentation`` where the user said so.

    Returns:
        The bundle's name.

    Raises:
        ValueError: if segmentation is wanted and no training or validation label is there.
    """
    if wanted == "segmentation" and not (facts.labelled and facts.validation):
        raise ValueError(
            f"{facts.datalist}: --stage segmentation needs label maps in training and validation, got "
            f"{facts.labelled} and {facts.validation}; `monai-essa data datalist` splits a folder by patient"
        )
    counts = f"{facts.labelled} of {facts.scans} scans have a label for training, {facts.validation} for validation"
    if wanted is not None:
        return Choice(f"essa_{wanted}", f"--stage {wanted}; {counts}")
    if facts.labelled >= FEW_LABELS and facts.validation:
        return Choice("essa_segmentation", counts)
    return Choice("essa_ssa", f"{counts}: adapt to all scans first, then plan again with --stage segmentation")


def spacing_choice(facts: SiteFacts) -> Choice:
    """Choose the spacing: the median, coarser where a patch would hold less than a third of the scan along an axis.

    Args:
        facts: of the site.

    Returns:
        Three numbers in mm; never coarser than 1.5 mm unless the median is.
    """
    median = np.array(facts.spacing)
    wanted = np.minimum(np.array(facts.extent) / 3 / _SIDE, _COARSEST)
    spacing = [round(float(value), 2) for value in np.maximum(median, wanted)]
    reason = f"the median of {facts.read} scans"
    if (wanted > median * 1.01).any():
        reason += f" is {_by(median)} mm; coarser, so that a patch holds a third of a scan, up to {_COARSEST} mm"
    return Choice(spacing, reason)


def patch_choice(facts: SiteFacts, spacing: Sequence[float], network: str) -> Choice:
    """Choose the patch: 96 voxels a side, or the scan where that is smaller, in steps of the network.

    Args:
        facts: of the site.
        spacing: in mm.
        network: ``vit``, ``unetr``, ``swin_unetr`` or ``segresnet``.

    Returns:
        Three numbers of voxels.
    """
    step = _STEPS[network]
    least = 64 if network == "swin_unetr" else 2 * step
    voxels = np.divide(facts.extent, spacing)
    sides = [min(_SIDE, max(least, step * math.ceil(round(float(side), 3) / step))) for side in voxels]
    size, extent = np.multiply(sides, spacing), np.array(facts.extent)
    share = float(np.prod(np.minimum(size, extent) / extent))
    return Choice(sides, f"{_by(size)} mm, {share:.0%} of the median scan ({_by(extent)} mm)")


def _by(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
