# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a training sample costs to load: from the file, from memory, and from the mapped cache.

``python -m benchmarks.data_cost`` prints the table of the documentation.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser
from monai.data import CacheDataset, Dataset

from monai_essa.bundling.folder import bundle_folder
from monai_essa.data import KeyedDataset, MappedDataset

__all__ = ["DataCost", "sample_seconds"]

_SPACING = (0.9, 0.9, 0.8)  # mm, so that the bundles' 1 mm has to be resampled to


@dataclass(frozen=True)
class DataCost:
    """Seconds of one core, medians, with all files in the system's cache.

    Attributes:
        raw: a sample without a cache: decompress, resample, normalise, crop.
        cached: a sample of ``CacheDataset``.
        mapped: a sample of :class:`monai_essa.data.MappedDataset`.
        filling: to make a volume's file for the mapped cache, once.
        volume_bytes: of that file; ``CacheDataset`` holds as much in memory.
    """

    raw: float
    cached: float
    mapped: float
    filling: float
    volume_bytes: int


def sample_seconds(bundle: str = "essa_ssa", side: int = 200, crop: int = 96, samples: int = 25) -> DataCost:
    """Time a bundle's own transforms on a synthetic scan in a temporary folder, nothing else running.

    Args:
        bundle: ``essa_ssa``, ``essa_tpp``, ``essa_segmentation`` or ``essa_classification``.
        side: voxels along each axis of the scan, int16 in a ``.nii.gz``.
        crop: voxels along each axis of a sample.
        samples: how many are timed of each kind.

    Returns:
        The medians.

    Raises:
        ValueError: if no bundle has that name.

    Example:
        >>> cost = sample_seconds(side=48, crop=32, samples=3)
        >>> cost.mapped < cost.raw
        True
    """
    with tempfile.TemporaryDirectory() as folder:
        items = [_scan(Path(folder), side, bundle)]
        transform = _transform(bundle, crop)
        raw = _median_seconds(Dataset(items, transform), max(1, samples // 5))
        cached = _median_seconds(CacheDataset(items, transform, progress=False), samples)
        begin = time.perf_counter()
        dataset = MappedDataset(items, transform, Path(folder) / "cache", num_workers=1, progress=False)
        filling = time.perf_counter() - begin
        size = sum(file.stat().st_size for file in dataset.cache_dir.iterdir())
        return DataCost(raw, cached, _median_seconds(dataset, samples), filling, size)


def _scan(folder: Path, side: int, bundle: str) -> dict[str, Any]:
    """Write a ball in noise, as compressible as a scan of a head, and its mask or class."""
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    ball = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2 < 0.7
    noise = np.random.default_rng(0).normal(0, 20, ball.shape)
    affine = np.diag([*_SPACING, 1.0])
    nib.save(nib.Nifti1Image((noise + 300 * ball).astype(np.int16), affine), folder / "image.nii.gz")
    nib.save(nib.Nifti1Image(ball.astype(np.uint8), affine), folder / "label.nii.gz")
    labels: dict[str, dict[str, Any]] = {
        "essa_segmentation": {"label": str(folder / "label.nii.gz")},
        "essa_classification": {"label": 1},
    }
    return {"image": str(folder / "image.nii.gz")} | labels.get(bundle, {})


def _transform(bundle: str, crop: int) -> Any:
    parser = ConfigParser()
    parser.read_config(bundle_folder(bundle) / "configs" / "train.yaml")
    parser["img_size"] = [crop] * 3
    return parser.get_parsed_content("train#preprocessing")


def _median_seconds(dataset: Dataset, samples: int) -> float:
    keyed = KeyedDataset(dataset)
    seconds = []
    for epoch in range(samples + 1):  # the first one fills the caches of the system
        begin = time.perf_counter()
        keyed[epoch, 0]
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def _main() -> None:
    names = ("pipeline", "raw, s", "CacheDataset, s", "mapped, s", "filling, s", "MB a volume")
    rows = [names, ("---",) * len(names)]
    for bundle in ("essa_ssa", "essa_segmentation", "essa_classification"):
        cost = sample_seconds(bundle)
        seconds = (f"{value:.4f}" for value in (cost.raw, cost.cached, cost.mapped, cost.filling))
        rows.append((bundle, *seconds, f"{cost.volume_bytes / 1e6:.0f}"))
    sys.stdout.writelines(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    _main()
