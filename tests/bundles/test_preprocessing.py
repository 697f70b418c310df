# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Training and inference of the bundles show the network the same image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose

RunBundle = Callable[..., ConfigWorkflow]
INTENSITIES = [
    (),
    ("intensity_ct.yaml",),
    ("intensity_ct_bone.yaml",),
    ("intensity_ct_lung.yaml",),
    ("intensity_us.yaml",),
]


@pytest.fixture
def item(tmp_path: Path) -> dict[str, str]:
    """An anisotropic volume stored as PSR, with Hounsfield-like values and a label."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(0, 300, (20, 16, 12)).clip(-1000).astype(np.float32)
    affine = np.array([[0, 0, 2.5, 0], [-1.2, 0, 0, 5], [0, 1.5, 0, -3], [0, 0, 0, 1]])
    for name, array in (("image", voxels), ("label", (voxels > 0).astype(np.uint8))):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    return {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}


@pytest.mark.parametrize("intensity", INTENSITIES, ids=lambda files: files[0] if files else "mr")
def test_training_and_inference_prepare_an_image_alike(
    intensity: tuple[str, ...], item: dict[str, str], open_bundle: RunBundle
) -> None:
    images = []
    for bundle in ("essa_ssa", "essa_tpp", "essa_segmentation"):
        for config in ("train.yaml", "inference.yaml"):
            workflow = open_bundle(bundle, config, *intensity)
            workflow.parser.parse()
            parser = workflow.parser
            sections = [name for name in ("load", "orient", "intensity") if name in parser]
            steps = [step for name in sections for step in parser.get_parsed_content(name)]
            images.append(Compose(steps)(dict(item))["image"])
    for other in images[1:]:
        assert other.shape == images[0].shape
        torch.testing.assert_close(other.as_tensor(), images[0].as_tensor())
        torch.testing.assert_close(other.affine, images[0].affine)
    assert images[0].std() > 0
