# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Whether a training made a site's segmentation worse, measured on volumes that no version of it has trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

__all__ = ["compared", "held_out_dice", "volume_digests"]

Item = dict[str, str]


def volume_digests(items: Sequence[Item]) -> list[str]:
    """Return what stands for the names of volumes in a history, which may travel.

    Example:
        >>> volume_digests([{"image": "/studies/case_00.nii.gz"}])
        ['874f2ee12fdae91c']
    """
    return sorted(hashlib.sha256(Path(item["image"]).name.encode()).hexdigest()[:16] for item in items)


def held_out_dice(bundle: Path, items: Sequence[Item], adapter: Path | None, device: str) -> float | None:
    """Compute the mean Dice of the bundle's network with an adapter, as the bundle's own validation does.

    Args:
        bundle: the bundle's folder.
        items: ``{"image": path, "label": path}`` of each volume.
        adapter: an adapter file; None: the bundle alone.
        device: where it runs.

    Returns:
        The Dice; None if it is not defined, for want of foreground.
    """
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.yaml"))
    checkpoint = str(bundle / "models" / "model.pt")
    network: dict[str, Any] = {"_target_": "monai_essa.engines.trained_network", "checkpoint": checkpoint}
    network["network"] = "$@network_def.to(@device)"
    if adapter is not None:
        network = {"_target_": "monai_essa.load_adapter", "network": network, "path": str(adapter)}
    parser.update({"network": network, "device": device, "bundle_root": str(bundle), "cache_rate": 0.0})
    parser.update({"validate#dataset#data": list(items), "validate#handlers": []})
    evaluator = parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    dice = float(evaluator.state.metrics["val_mean_dice"])
    return dice if math.isfinite(dice) else None


def compared(bundle: Path, items: Sequence[Item], new: Path, before: Path | None, device: str) -> dict[str, Any]:
    """Compare a new adapter with what is in use, on the same volumes.

    Args:
        bundle: the bundle's folder.
        items: labelled volumes that neither trained on.
        new: the new adapter.
        before: the adapter in use; None: the bundle alone.
        device: where they run.

    Returns:
        What the history says: ``held_out``, and ``promoted`` false if the new one is worse; nothing without a volume,
        or where the Dice of one is not defined.
    """
    if not items:
        return {}
    dice, dice_before = (held_out_dice(bundle, items, adapter, device) for adapter in (new, before))
    if dice is None or dice_before is None:
        return {}
    held_out = {"volumes": len(items), "dice": round(dice, 4), "before": round(dice_before, 4)}
    return {"held_out": held_out, "promoted": dice >= dice_before}
