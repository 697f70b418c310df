# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Pretext objectives in a plan: the overlay of each, the patients that it needs in a batch, what it leaves out."""

from __future__ import annotations

from monai_essa.planning.choices import Choice
from monai_essa.pretext.batch_views import COMPARED, SPREAD

__all__ = ["check_network", "fitting_batch", "least_batch", "objective_notes", "objective_overlay", "objective_values"]

_WITH_TOKENS = ("vit", "unetr")


def objective_overlay(objective: str | None) -> tuple[str, ...]:
    """Return the overlay of an objective; none where the bundle's own is wanted.

    Example:
        >>> objective_overlay("dinov2"), objective_overlay(None)
        (('objective_dinov2.yaml',), ())
    """
    return () if objective is None else (f"objective_{objective}.yaml",)


def least_batch(objective: str | None, patients: int = COMPARED) -> int:
    """Return the number of patients that an objective needs in a batch.

    Args:
        objective: as ``monai-essa plan --objective`` has it, or None.
        patients: that there are to learn from.

    Raises:
        ValueError: if there are fewer patients than it needs.

    Example:
        >>> least_batch("contrastive"), least_batch("diet", patients=2)
        (8, 1)
    """
    if objective != "contrastive":
        return 1
    if patients < COMPARED:
        raise ValueError(
            f"--objective contrastive compares {COMPARED} patients in a batch, and there are {patients} to learn from; "
            "take --objective diet, or give more scans"
        )
    return COMPARED


def fitting_batch(objective: str | None, batch: int, patients: int) -> int:
    """Return a batch in which all patients differ, if the objective needs that.

    ``KeyedSampler`` keeps as many neighbours apart as half the patients are.

    Args:
        objective: as ``monai-essa plan --objective`` has it, or None.
        batch: that is wanted.
        patients: to learn from.

    Raises:
        ValueError: if there are too few patients.

    Example:
        >>> fitting_batch("contrastive", 32, patients=30), fitting_batch("diet", 32, patients=30)
        (15, 32)
    """
    if objective != "contrastive":
        return batch
    if patients < 2 * COMPARED:
        raise ValueError(
            f"--objective contrastive compares {COMPARED} patients in a batch and needs {2 * COMPARED} to learn from, "
            f"got {patients}; take --objective diet"
        )
    return min(batch, patients // 2)


def check_network(objective: str | None, network: str) -> None:
    """Refuse MAE for a network that cannot leave its masked patches out.

    Args:
        objective: as ``monai-essa plan --objective`` has it, or None.
        network: ``vit``, ``unetr``, ``swin_unetr``, ``swin_unetr_v2`` or ``segresnet``.

    Raises:
        ValueError: if MAE is asked of a network with windows or convolutions.

    Example:
        >>> check_network("mae", "segresnet")
        Traceback (most recent call last):
        ValueError: --objective mae needs a ViT or UNETR, got segresnet; take simmim, dinov2, contrastive or diet
    """
    if objective == "mae" and network not in _WITH_TOKENS:
        raise ValueError(
            f"--objective mae needs a ViT or UNETR, got {network}; take simmim, dinov2, contrastive or diet"
        )


def objective_values(objective: str | None, network: str, batch: int) -> dict[str, Choice]:
    """Return what an objective leaves out: KoLeo in a small batch, iBOT with a CNN.

    Args:
        objective: as ``monai-essa plan --objective`` has it, or None.
        network: as ``monai-essa plan --network`` has it.
        batch: patients in a batch.

    Example:
        >>> objective_values("dinov2", "vit", batch=2)["koleo"].value
        0.0
    """
    values: dict[str, Choice] = {}
    if objective != "dinov2":
        return values
    if batch < SPREAD:
        values["koleo"] = Choice(0.0, f"KoLeo spreads {SPREAD} patients or more, and a batch has {batch}")
    if network == "segresnet":
        values["ibot"] = Choice(0.0, "iBOT masks patches, and a SegResNet embeds none")
    return values


def objective_notes(objective: str | None, pretrained: str | None) -> list[str]:
    """Return what a user should know of an objective before it runs.

    Args:
        objective: as ``monai-essa plan --objective`` has it, or None.
        pretrained: the base; None where it is made from the same scans.

    Example:
        >>> objective_notes("dinov2", "vit.pt"), len(objective_notes("dinov2", None))
        ([], 1)
    """
    if objective != "dinov2" or pretrained is not None:
        return []
    return [
        "--objective dinov2 needs a base that tells scans apart: with one that is made here the targets have become "
        "uniform in our studies, and the alarm has stopped SSA; give --pretrained, or take another objective"
    ]
