# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Label maps lie where the image lies, whatever its orientation: inference by a network whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

RunBundle = Callable[..., ConfigWorkflow]
ZOOMS = (1.5, 1.2, 2.0)
# A pointwise network whose logits are (1/4, x): of intensities from 0 to 1 it labels what is above a quarter.
THRESHOLD = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
TILT = nib.eulerangles.euler2mat(0.2, -0.15, 0.3)
REAL = {
    "PSR": "nifti_psr_orientation/t2.nii.gz",
    "LPS": "ct_multiorgan_3mm/example_mr_sm.nii.gz",
    "LAS, 7.5 mm": "nifti_thick_7p5mm/t2s.nii.gz",
    "RAS, no qform": "ct_spleen_float32_noq/sub-spleen2_ct.nii.gz",
}


@pytest.fixture
def segment(run_bundle: RunBundle, tmp_path: Path) -> Callable[..., nib.Nifti1Image]:
    """Runs inference.yaml with the known network on one file."""
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.25, 0.0])}, tmp_path / "model.pt")

    def run(path: Path, spacing: tuple[float, ...]) -> nib.Nifti1Image:
        run_bundle(
            "essa_segmentation",
            "inference.yaml",
            network_def=THRESHOLD,
            checkpoint=tmp_path / "model.pt",
            data=[{"image": str(path)}],
            output_dir=tmp_path / "labels",
            spacing=list(spacing),
        )
        (label,) = (tmp_path / "labels").iterdir()
        return nib.load(label)

    return run


def fabricated(axcodes: str, rotation: np.ndarray, folder: Path) -> Path:
    """A smooth, lopsided volume whose axes are rotated, then stored in the order and direction of axcodes."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in (30, 40, 24)), indexing="ij")
    voxels = 100 * np.exp(-3 * ((x + 0.3) ** 2 + (y - 0.2) ** 2 + (z - 0.1) ** 2)) + 5 * x + 3 * y + 10
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(ZOOMS)
    affine[:3, 3] = (-20, 35, 7)
    change = ornt_transform(io_orientation(affine), axcodes2ornt(axcodes))
    stored = apply_orientation(voxels.astype(np.float32), change)
    nib.save(nib.Nifti1Image(stored, affine @ inv_ornt_aff(change, voxels.shape)), folder / "image.nii.gz")
    return folder / "image.nii.gz"


def above_a_quarter(image: nib.Nifti1Image) -> np.ndarray:
    """What the network labels, computed in the file's own voxels."""
    voxels = image.get_fdata()
    foreground = voxels[voxels > np.percentile(voxels, [2, 98]) @ [0.9, 0.1]]
    return voxels > np.percentile(foreground, [0.5, 99.5]).dot([0.75, 0.25])


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def assert_same_geometry(label: nib.Nifti1Image, image: nib.Nifti1Image) -> None:
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)


@pytest.mark.parametrize("rotation", [np.eye(3), TILT], ids=["straight", "oblique"])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PSR", "IAL"])
def test_a_label_map_is_the_threshold_of_its_image(axcodes: str, rotation: np.ndarray, segment, tmp_path: Path) -> None:
    path = fabricated(axcodes, rotation, tmp_path)
    image = nib.load(path)
    assert "".join(nib.aff2axcodes(image.affine)) == axcodes
    label = segment(path, ZOOMS)
    assert_same_geometry(label, image)
    expected = above_a_quarter(image)
    assert 0.1 < expected.mean() < 0.9
    assert (label.get_fdata() == expected).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.5, 2.2)], ids=["finer", "coarser"])
@pytest.mark.parametrize("axcodes", ["RAS", "PSR"])
def test_resampling_there_and_back_keeps_the_place(
    axcodes: str, spacing: tuple[float, ...], segment, tmp_path: Path
) -> None:
    path = fabricated(axcodes, TILT, tmp_path)
    label = segment(path, spacing)
    assert_same_geometry(label, nib.load(path))
    assert dice(label.get_fdata() > 0, above_a_quarter(nib.load(path))) > 0.97


@pytest.mark.parametrize("name", REAL.values(), ids=REAL)
def test_label_maps_of_real_files_lie_on_them(name: str, data_dir: Path, segment) -> None:
    image = nib.load(data_dir / "odd-files" / name)
    label = segment(data_dir / "odd-files" / name, (2.0, 2.0, 2.0))
    assert_same_geometry(label, image)
    found, expected = label.get_fdata() > 0, above_a_quarter(image)
    assert dice(found, expected) > 0.7
    assert dice(found, expected) > max(dice(np.flip(found, axis), expected) for axis in range(3))
