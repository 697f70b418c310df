# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The configs of a bundle with chosen overlays and values made its defaults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from monai_essa.cli.bundle_config import OVERLAYS, overlay_names
from monai_essa.cli.config_text import config_entries, entry_text, replace_entries

__all__ = ["write_variant"]


def write_variant(bundle: Path, overlays: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Make overlays and values the defaults of a bundle's train.yaml and inference.yaml.

    The network overlays are removed, since a bundle is one network with one data format.

    Args:
        bundle: a copy of a bundle, which is changed.
        overlays: the chosen name for each kind of :data:`~monai_essa.cli.bundle_config.OVERLAYS`.
        values: over those of the configs, by top-level key of train.yaml.

    Raises:
        ValueError: if the bundle has no such overlay or key.
    """
    configs = bundle / "configs"
    train = (configs / "train.yaml").read_text(encoding="utf-8")
    inference = (configs / "inference.yaml").read_text(encoding="utf-8")
    runs_what_is_trained = _network(train) == _network(inference)
    for kind in (kind for kind in OVERLAYS if kind in overlays):
        chosen = config_entries(_overlay(bundle, kind, overlays[kind]))
        train = replace_entries(train, chosen)
        if kind == "network" and not runs_what_is_trained:
            inference = replace_entries(inference, _inference_overlay(bundle, overlays[kind]))
        elif kind != "start":  # what a training begins with, and where it writes
            inference = replace_entries(inference, _for_inference(chosen, inference))
    _check_keys(values, config_entries(train))
    entries = {key: entry_text(key, value) for key, value in values.items()}
    train = replace_entries(train, entries)
    inference = replace_entries(inference, _for_inference(entries, inference))

    for path in (*configs.glob("network_*.yaml"), *configs.glob("inference_*.yaml")):
        path.unlink()
    (configs / "train.yaml").write_text(train.replace("network_*.yaml, ", "", 1), encoding="utf-8")
    (configs / "inference.yaml").write_text(inference, encoding="utf-8")


def _overlay(bundle: Path, kind: str, name: str) -> str:
    names = overlay_names(bundle, kind)
    if name not in names:
        raise ValueError(f"--{kind} {name}: the bundle has {', '.join(names) or f'no choice of {kind}'}")
    return (bundle / "configs" / f"{kind}_{name}.yaml").read_text(encoding="utf-8")


def _inference_overlay(bundle: Path, network: str) -> dict[str, str]:
    """Where inference runs the encoder alone, networks share one (a UNETR its ViT) or have an overlay for their own."""
    path = bundle / "configs" / f"inference_{network}.yaml"
    return config_entries(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _for_inference(entries: Mapping[str, str], inference: str) -> dict[str, str]:
    """Pick what inference.yaml has too; it names MONAI components only."""
    has = config_entries(inference)
    return {key: text for key, text in entries.items() if key in has and "monai_essa" not in text}


def _network(text: str) -> Any:
    return yaml.safe_load(config_entries(text)["network_def"])


def _check_keys(values: Mapping[str, Any], known: Mapping[str, str]) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; give a top-level key of train.yaml"
            raise ValueError(f"--args {key}: train.yaml has no such key{hint}")
