# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What evaluate.yaml scores is what inference writes: the same Dice, on the voxels of the file, to rounding."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

RunBundle = Callable[..., ConfigWorkflow]
LABELS = {"background": 0, "anterior": 1, "posterior": 2}
READER = {"load#0#reader": "monai_essa.data.VolumeReader"}  # as `monai-essa predict` sets it
# The crop is 32 voxels a side, and the networks see 1 mm.
SCANS: dict[str, tuple[tuple[int, int, int], list[list[float]]]] = {
    "smaller": ((20, 24, 18), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "equal": ((32, 32, 32), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "larger": ((45, 36, 40), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "thin": ((40, 50, 6), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "psr": ((20, 24, 30), [[0, 0, 1.3], [-1.6, 0, 0], [0, 0.8, 0]]),
    "oblique": ((22, 26, 20), [[-1.4, 0.3, 0], [0.3, 1.4, 0], [0, 0, 2.0]]),
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset.json, whose section `test` holds a scan of each kind; its margins are not dark."""
    folder = tmp_path_factory.mktemp("scans")
    items = []
    for number, (name, (shape, axes)) in enumerate(SCANS.items()):
        rng, affine = np.random.default_rng(number), np.eye(4)
        affine[:3, :3], affine[:3, 3] = axes, (7, -30, 11)
        image = rng.normal(300, 60, shape).astype(np.float32)
        label = (image > 280).astype(np.uint8) + (image > 320)
        item = {"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz"}
        for key, voxels in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(voxels, affine), folder / item[key])
        items.append(item)
    (folder / "dataset.json").write_text(json.dumps({"test": items}), encoding="utf-8")
    return folder


def written_dice(scans: Path, masks: Path) -> np.ndarray:
    """Dice of each scan and class, of the files alone."""
    rows = []
    for name in SCANS:
        label, mask = (
            np.asarray(nib.load(path).dataobj)
            for path in (scans / f"{name}_label.nii.gz", masks / f"{name}_seg.nii.gz")
        )
        assert mask.shape == label.shape
        rows.append([2 * np.sum((label == c) & (mask == c)) / (np.sum(label == c) + np.sum(mask == c)) for c in (1, 2)])
    return np.array(rows)


def evaluated_dice(run: Path) -> np.ndarray:
    with (run / "test" / "dice_raw.csv").open(encoding="utf-8", newline="") as file:
        rows = {Path(row["filename"]).name.partition(".")[0]: row for row in csv.DictReader(file)}
    return np.array([[float(rows[name][f"class{c}"]) for c in (0, 1)] for name in SCANS])


@pytest.fixture
def run(tmp_path: Path, open_bundle: RunBundle) -> Callable[[str], Path]:
    """A run folder with the weights of an untrained network, whose answers change from voxel to voxel."""

    def make(network: str) -> Path:
        torch.manual_seed(0)
        parser = open_bundle("essa_segmentation", "inference.yaml", f"network_{network}.yaml").parser
        plain = parser.get_parsed_content("network_def")
        (tmp_path / "run").mkdir()
        torch.save(plain.state_dict(), tmp_path / "run" / "model.pt")
        return tmp_path / "run"

    return make


@pytest.mark.parametrize("intensity", ["mr", "ct"])
@pytest.mark.parametrize("network", ["unetr", "segresnet"])
def test_evaluation_scores_what_inference_writes(
    network: str, intensity: str, run: Callable[[str], Path], scans: Path, run_bundle: RunBundle
) -> None:
    folder = run(network)
    own = [f"network_{network}.yaml", *([] if intensity == "mr" else [f"intensity_{intensity}.yaml"])]
    values: dict[str, Any] = {"dataset_dir": scans, "validation_section": "test", "output_dir": folder}
    run_bundle("essa_segmentation", "train.yaml", *own, "evaluate.yaml", masks=folder / "kept", **values)
    data = [{"image": str(scans / f"{name}.nii.gz")} for name in SCANS]
    values = {"data": data, "checkpoint": folder / "model.pt", "output_dir": folder / "masks"}
    run_bundle("essa_segmentation", "inference.yaml", *own, **values, **READER)
    written = written_dice(scans, folder / "masks")
    np.testing.assert_allclose(evaluated_dice(folder), written, rtol=0, atol=1e-6)
    assert written.min() > 0
    assert written.max() < 1
    for name in SCANS:
        kept, mask = nib.load(folder / "kept" / f"{name}.nii.gz"), nib.load(folder / "masks" / f"{name}_seg.nii.gz")
        np.testing.assert_array_equal(kept.dataobj, mask.dataobj)
        np.testing.assert_array_equal(kept.affine, nib.load(scans / f"{name}.nii.gz").affine)


def test_caches_and_workers_do_not_change_the_scores(
    run: Callable[[str], Path], scans: Path, run_bundle: RunBundle
) -> None:
    """A folder keeps what brings a prediction back to the file's voxels, for another process too."""
    folder, scores = run("segresnet"), []
    disk = {"cache_dir": folder / "cache"}
    for cache in ({"cache_rate": 1.0}, {"cache_rate": 0.5, "num_workers": 2}, disk, disk | {"num_workers": 2}):
        values: dict[str, Any] = {"dataset_dir": scans, "validation_section": "test", "output_dir": folder}
        run_bundle("essa_segmentation", "train.yaml", "network_segresnet.yaml", "evaluate.yaml", **values, **cache)
        scores.append(evaluated_dice(folder))
    assert all(np.array_equal(score, scores[0]) for score in scores)
