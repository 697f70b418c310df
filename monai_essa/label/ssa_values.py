# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""The values of essa_ssa's train.yaml that make it the SSA of a segmentation bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from monai_essa.bundle_folder import bundle_folder

__all__ = ["ssa_values"]

# Network, method and preprocessing are the bundle's.
_SHARED = ("method", "hidden_size", "mlp_dim", "num_heads", "spacing", "img_size", "in_channels", "intensity")


def ssa_values(bundle: Path) -> dict[str, Any]:
    """Take network, method and preprocessing from a bundle, and what essa_ssa's overlays for the two choose.

    The objective is that of the network's overlay (MAE for a UNETR, SimMIM for a SwinUNETR and a SegResNet); SimMIM,
    which takes any encoder, for a network without an overlay. The learning rate is that of the method's.

    Args:
        bundle: folder of a copy of essa_segmentation, with weights.

    Returns:
        The values, by key of essa_ssa's train.yaml.
    """
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.yaml"))
    values = {key: parser[key] for key in (*_SHARED, "intensity_name") if key in parser}
    # References in it are resolved here, for they may name any key of the bundle.
    values["network_def"] = parser.get_parsed_content("network_def", instantiate=False).get_config()
    steps = [*parser["load"], *parser.get("orient", [])]
    values["axcodes"] = next(step["axcodes"] for step in steps if step["_target_"] == "Orientationd")
    values |= {"pretrained": str(bundle / "models" / "model.pt"), "handover": "adapter"}

    network = _overlay("network", values["network_def"]) or _read("objective_simmim.yaml")
    chosen = {"objective": network.get("objective"), "lr": _overlay("method", values["method"]).get("lr")}
    return values | {key: value for key, value in chosen.items() if value is not None}


def _overlay(kind: str, component: Any) -> dict[str, Any]:
    """Find the overlay for the class of a component; {} without one, and for a list of methods."""
    key = {"network": "network_def", "method": "method"}[kind]
    for path in sorted((bundle_folder("essa_ssa") / "configs").glob(f"{kind}_*.yaml")):
        overlay = _read(path.name)
        if isinstance(component, dict) and overlay[key]["_target_"] == component["_target_"]:
            return overlay
    return {}


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((bundle_folder("essa_ssa") / "configs" / name).read_text(encoding="utf-8"))
