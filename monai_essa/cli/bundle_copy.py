# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A finished bundle of the user's own out of one that ships with monai_essa."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_essa.cli.bundle_config import check_configs, drop_marks, overlay_names
from monai_essa.cli.bundle_metadata import write_metadata
from monai_essa.cli.bundle_run import run_overlays, run_values
from monai_essa.cli.bundle_variant import write_variant
from monai_essa.cli.bundle_weights import take_weights
from monai_essa.outside import NAME, Text

__all__ = ["BundleVariant", "copy_bundle"]


@dataclass(frozen=True)
class BundleVariant:
    """What is to be another in the copy.

    Args:
        name: of the new bundle: letters, digits, blanks and ``._+()-``, never a path.
        overlays: the chosen name for each kind of :data:`monai_essa.cli.bundle_config.OVERLAYS`.
        values: over those of the configs, by top-level key of train.yaml.
        run: folder of a finished run whose model.pt becomes the bundle's, and whose network, method, preprocessing and
            labels become its defaults where ``overlays`` and ``values`` say nothing else. A segmentation bundle then
            trains on from it, as MONAI Label asks, unless another start is chosen.
    """

    name: str
    overlays: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None


def copy_bundle(source: Path, destination: Path, variant: BundleVariant) -> Path:
    """Copy a bundle and make a variant its default; the folder appears under its name only when complete.

    Args:
        source: the bundle's folder.
        destination: where the new folder is made.
        variant: what is to be another.

    Returns:
        The new folder.

    Raises:
        FileExistsError: if there is a file or folder of that name.
        ValueError: if the name is more than a name, a config is no mapping, the bundle has no such overlay or key, or
            the run is of another configuration.
    """
    target = destination / Text(NAME, longest=100).check(variant.name, "--name")
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists; expected a new folder: give another --name or move the old one away")
    check_configs([path for path in (source / "configs").iterdir() if path.suffix in (".yaml", ".json")])
    if variant.run is not None:
        variant = _with_run(source, variant, variant.run)
    destination.mkdir(parents=True, exist_ok=True)
    # Within a folder of its own, so that nothing of the user's has its name.
    with tempfile.TemporaryDirectory(prefix=".bundle_copy_", dir=destination) as folder:
        partial = Path(folder) / variant.name
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__", "*.pt", "*.safetensors"))
        drop_marks(partial / "configs")
        write_variant(partial, _with_start(source, variant), variant.values)
        if variant.run is not None:
            take_weights(partial, variant.run)
        write_metadata(partial, variant.name, variant.overlays)
        partial.rename(target)
    return target


def _with_run(source: Path, variant: BundleVariant, run: Path) -> BundleVariant:
    """Complete what the caller chose by what the run was made with."""
    overlays = {**run_overlays(source, run), **variant.overlays}
    return replace(variant, overlays=overlays, values={**run_values(source, run), **variant.values})


def _with_start(source: Path, variant: BundleVariant) -> Mapping[str, str]:
    """A bundle with weights of its own starts from them; one without has nothing to start from."""
    if variant.run is None or "start" in variant.values or "bundle" not in overlay_names(source, "start"):
        return variant.overlays
    return {"start": "bundle"} | dict(variant.overlays)
