# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Choices for a site, each with its reason: stage, spacing, patch, network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_essa.anatomy.tensor_names import architecture_of
from monai_essa.planning.site import FEW_LABELS, SiteFacts
from monai_essa.weights.file import read_weight_file

__all__ = [
    "DEFAULT_NETWORK",
    "Choice",
    "network_choice",
    "overlay_choices",
    "patch_choice",
    "spacing_choice",
    "stage_choice",
]

_SIDE = 96  # voxels of a patch: what public weights of MONAI's networks were trained on
_STEPS = {"vit": 16, "unetr": 16, "swin_unetr": 32, "segresnet": 16}  # voxels that a patch side is a multiple of
_COARSEST = 1.5  # mm, the usual spacing of public CT networks
DEFAULT_NETWORK = {"essa_ssa": "vit", "essa_segmentation": "unetr"}


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


def network_choice(stage: str, pretrained: Path | None = None, wanted: str | None = None) -> Choice:
    """Choose the network: what the user says, what the weights are of, or the bundle's default.

    Args:
        stage: the bundle's name.
        pretrained: the weight file.
        wanted: ``vit``, ``unetr``, ``swin_unetr`` or ``segresnet``.

    Returns:
        One of these names.

    Raises:
        FileNotFoundError: if there is no such weight file.
        ValueError: if the file is damaged or of none of these networks, or the bundle has no such network.
    """
    if wanted == "vit" and stage == "essa_segmentation":
        raise ValueError("--network vit has no decoder to segment with; expected unetr, swin_unetr or segresnet")
    if wanted is not None:
        return Choice(wanted, f"--network {wanted}")
    if pretrained is None:
        return Choice(DEFAULT_NETWORK[stage], f"the default of {stage}")
    kind = architecture_of(read_weight_file(pretrained).tensors)
    if kind is None:
        raise ValueError(f"{pretrained}: expected weights of a ViT, UNETR, SwinUNETR or SegResNet; give --network")
    network = DEFAULT_NETWORK[stage] if kind == "transformer" else kind
    return Choice(network, f"the tensors of {pretrained.name} have its names")


def overlay_choices(stage: str, network: Choice, modality: Choice, pretrained: bool) -> list[Choice]:
    """List the config files over train.yaml.

    Args:
        stage: the bundle's name.
        network: of :func:`network_choice`.
        modality: ``ct``, ``mr`` or ``us``.
        pretrained: whether there is a weight file.

    Returns:
        File names without a folder, the last one strongest.
    """
    files = []
    if network.value != DEFAULT_NETWORK[stage]:
        files.append(Choice(f"network_{network.value}.yaml", network.reason))
    if not pretrained:
        why = "no pretrained weights, so every parameter has to learn: a method would freeze random tensors"
        files.append(Choice("method_full.yaml" if stage == "essa_ssa" else "start_random.yaml", why))
    elif network.value == "segresnet":
        files.append(Choice("method_lora_conv.yaml", "APLA needs attention, and a CNN has none"))
    if modality.value != "mr":
        files.append(Choice(f"intensity_{modality.value}.yaml", modality.reason))
    return files


def _by(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
