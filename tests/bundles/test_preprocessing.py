# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Training and inference of the bundles show the network the same image, channel by channel, on a background of 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_essa.error_line import root_cause

RunBundle = Callable[..., ConfigWorkflow]
BUNDLES = ("essa_ssa", "essa_tpp", "essa_segmentation", "essa_classification")
CONFIGS = ("train.yaml", "inference.yaml")
INTENSITIES = [
    (),
    ("intensity_ct.yaml",),
    ("intensity_ct_bone.yaml",),
    ("intensity_ct_lung.yaml",),
    ("intensity_us.yaml",),
    ("intensity_xray.yaml",),
]
UNITS = ("ct", "8bit", "fundus")  # whose limits are values of the file
SCALED = [(bundle, files) for bundle in BUNDLES for files in (*INTENSITIES, ("intensity_fundus.yaml",))]
SCALED += [("essa_classification", ("intensity_8bit.yaml",))]
WHOLE = [*SCALED, *((bundle, ("images_2d.yaml",)) for bundle in BUNDLES)]
PAD = {"essa_ssa": "foreground", "essa_tpp": "foreground", "essa_segmentation": "pad", "essa_classification": "fit"}


@pytest.fixture
def item(tmp_path: Path) -> dict[str, str]:
    """An anisotropic volume stored as PSR, with Hounsfield-like values and a label."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(0, 300, (20, 16, 12)).clip(-1000).astype(np.float32)
    affine = np.array([[0, 0, 2.5, 0], [-1.2, 0, 0, 5], [0, 1.5, 0, -3], [0, 0, 0, 1]])
    for name, array in (("image", voxels), ("label", (voxels > 0).astype(np.uint8))):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    return {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}


@pytest.fixture
def steps(open_bundle: RunBundle) -> Callable[..., Compose]:
    """The transforms that stand under some keys of a bundle's config."""

    def make(bundle: str, files: tuple[str, ...], keys: tuple[str, ...], **values: Any) -> Compose:
        parser = open_bundle(bundle, *files, **values).parser
        parser.parse()
        return Compose([step for key in keys if key in parser for step in parser.get_parsed_content(key)])

    return make


def noise(seed: int, scale: float, shift: float, shape: tuple[int, ...] = (12, 10, 8)) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, shape).astype(np.float32)


@pytest.mark.parametrize("intensity", INTENSITIES, ids=lambda files: files[0] if files else "mr")
def test_training_and_inference_prepare_an_image_alike(
    intensity: tuple[str, ...], item: dict[str, str], steps: Callable[..., Compose]
) -> None:
    images = []
    for bundle in BUNDLES:
        for config in CONFIGS:
            data = item | ({"label": 1} if bundle == "essa_classification" else {})  # type: ignore[dict-item]
            images.append(steps(bundle, (config, *intensity), ("load", "orient", "intensity"))(data)["image"])
    for other in images[1:]:
        assert other.shape == images[0].shape
        torch.testing.assert_close(other.as_tensor(), images[0].as_tensor(), rtol=0, atol=0)
        torch.testing.assert_close(other.affine, images[0].affine)
    assert images[0].std() > 0


def test_validation_prepares_the_image_as_inference_does_and_leaves_the_label(
    item: dict[str, str], open_bundle: RunBundle, steps: Callable[..., Compose]
) -> None:
    parser = open_bundle("essa_segmentation", "train.yaml").parser
    parser.parse()
    got = parser.get_parsed_content("validate#preprocessing")(item)
    expected = steps("essa_segmentation", ("inference.yaml",), ("preprocessing#transforms",))(item)
    assert torch.equal(got["image"], expected["image"])
    assert np.array_equal(got["label"][0], np.asarray(nib.load(item["label"]).dataobj))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("bundle", "files"), WHOLE)
def test_each_channel_is_prepared_as_it_would_be_alone(
    bundle: str, files: tuple[str, ...], config: str, steps: Callable[..., Compose]
) -> None:
    shape = (12, 10) if files == ("images_2d.yaml",) else (12, 10, 8)
    channels = [noise(0, 20, 100, shape), noise(1, 600, 3000, shape), noise(2, 0.1, 0, shape)]
    scale = steps(bundle, (config, *files), ("intensity",), in_channels=3)
    together = scale({"image": MetaTensor(np.stack(channels))})["image"]
    alone = [scale({"image": MetaTensor(channel[None])})["image"][0] for channel in channels]
    assert torch.equal(together.as_tensor(), torch.stack(alone).as_tensor())
    if not any(unit in "".join(files) for unit in UNITS):
        assert min(channel.std() for channel in alone) > 0.1


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("bundle", "files"), SCALED)
def test_background_is_zero_and_so_is_what_is_padded(
    bundle: str, files: tuple[str, ...], config: str, steps: Callable[..., Compose]
) -> None:
    image = noise(0, 60, 130, (20, 20, 20)).clip(1, 255)
    image[:5] = -1000 if "ct" in "".join(files) else 0
    pad = ("foreground", "pad", "fit", "centre") if config == "inference.yaml" else (PAD[bundle],)
    item = {"image": MetaTensor(image[None]), "label": MetaTensor((image[None] > 100).astype(np.uint8))}
    scaled = steps(bundle, (config, *files), ("intensity",))(item)["image"]
    assert scaled[:, :5].abs().max() == 0
    assert 0.2 < scaled.max() <= 1
    chain = steps(bundle, (config, *files), ("intensity", *pad))(dict(item))["image"]
    if (bundle, config) == ("essa_segmentation", "inference.yaml"):  # the sliding window pads
        chain = torch.nn.functional.pad(chain, (6,) * 6)
    assert chain.shape[1:] == (32, 32, 32)
    assert chain[:, :6].abs().max() == 0 and chain[..., -6:].abs().max() == 0
    assert chain.sum() == pytest.approx(scaled.sum().item(), rel=1e-5)


@pytest.mark.parametrize("files", [("intensity_ct.yaml",), ("intensity_us.yaml",), ("intensity_8bit.yaml",)])
def test_a_constant_channel_becomes_no_nan(files: tuple[str, ...], steps: Callable[..., Compose]) -> None:
    image = MetaTensor(torch.stack([torch.full((8, 8, 8), 7.0), torch.rand(8, 8, 8) * 200]))
    for config in CONFIGS:
        scaled = steps("essa_classification", (config, *files), ("intensity",))({"image": image})["image"]
        assert torch.isfinite(scaled).all()
        assert scaled[0].min() == scaled[0].max()


def faulty(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and an affine with one fault."""
    voxels, affine = noise(0, 20, 100, (16, 16, 16)), np.eye(4)
    if kind in ("nan", "inf"):
        voxels[3, 4, 5] = float(kind)
    if kind == "constant":
        voxels[:] = 7
    if kind == "channels":
        voxels = np.stack([voxels, voxels], -1)
    if kind == "mostly one value":
        voxels[:] = 9
        voxels[0, 0] = 1
    if kind == "infinite place":
        affine[0, 3] = np.inf
    if kind == "metres":
        affine[:3, :3] *= 0.001
    if kind == "singular":
        affine[1] = affine[0]
    return voxels, affine


def line_of(chain: Compose, item: dict[str, Any]) -> str:
    with pytest.raises(Exception) as caught:
        chain(item)
    return str(root_cause(caught.value))


FAULTS = {
    "nan": "some voxels are NaN or infinite",
    "inf": "some voxels are NaN or infinite",
    "constant": "every voxel is 7",
    "channels": "expected in_channels=1, got 2",
    "mostly one value": "a channel has no foreground",
    "infinite place": "the affine is not finite or cannot be inverted",
    "metres": "the longest side is 0.016 mm, expected 1 to 10000",
    "singular": "the affine is not finite or cannot be inverted",
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("bundle", BUNDLES)
def test_inference_refuses_what_training_refuses_with_the_same_line(
    bundle: str, kind: str, steps: Callable[..., Compose], tmp_path: Path
) -> None:
    """The volume is given as a reader gives it: readers repair some headers, each in its way."""
    voxels, affine = faulty(kind)
    path = str(tmp_path / "case.nii.gz")
    channels = np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None]
    lines = []
    for config in CONFIGS:
        checks = steps(bundle, (config,), ("load", "intensity"))
        image = MetaTensor(channels.copy(), affine=affine, meta={"filename_or_obj": path})
        label = 1 if bundle == "essa_classification" else MetaTensor(np.float32(channels[:1] > 100), affine=affine)
        item = {"image": image, "label": label}
        lines.append(line_of(Compose([step for step in checks.transforms if not isinstance(step, LoadImaged)]), item))
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"{path}: {FAULTS[kind]}")
    assert "\n" not in lines[0]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_inference_names_a_file_of_too_many_dimensions(
    bundle: str, steps: Callable[..., Compose], tmp_path: Path
) -> None:
    nib.save(nib.Nifti1Image(noise(0, 1, 0, (6, 6, 6, 2, 3)), np.eye(4)), tmp_path / "field.nii.gz")
    line = line_of(steps(bundle, ("inference.yaml",), ("load",)), {"image": str(tmp_path / "field.nii.gz")})
    assert line.startswith(f"{tmp_path / 'field.nii.gz'}: expected 3 spatial dimensions after the channels, got (")


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_single_slice_is_a_2d_image(bundle: str, config: str, steps: Callable[..., Compose], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10), dtype=np.uint8)
    Image.fromarray(pixels.T).save(tmp_path / "image.png")
    nib.save(nib.Nifti1Image(pixels[..., None], np.diag([0.2, 0.2, 8, 1])), tmp_path / "slice.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(pixels.T[None]), str(tmp_path / "slice.dcm"))
    keys = ("load", "orient", "intensity", "fit" if bundle == "essa_classification" else "centre")
    values = {"img_size": [8, 8], "patch_size": 4, "load#0#reader": "monai_essa.data.VolumeReader"}
    chain = steps(bundle, (config, "images_2d.yaml"), keys, **values)
    label = str(tmp_path / "mask.png") if bundle == "essa_segmentation" else 1
    Image.fromarray(pixels.T // 128).save(tmp_path / "mask.png")
    png, *others = (
        chain({"image": str(tmp_path / name), "label": label})["image"]
        for name in ("image.png", "slice.nii.gz", "slice.dcm")
    )
    assert png.shape == (1, 8, 8)
    for other in others:
        assert torch.equal(other.as_tensor(), png.as_tensor())


def test_a_volume_of_slices_is_no_2d_image(steps: Callable[..., Compose], tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(noise(0, 1, 0, (8, 8, 3)), np.eye(4)), tmp_path / "slices.nii.gz")
    lines = {
        line_of(steps("essa_ssa", (config, "images_2d.yaml"), ("load",)), {"image": str(tmp_path / "slices.nii.gz")})
        for config in CONFIGS
    }
    (line,) = lines
    assert "expected 2 spatial dimensions after the channels, got (1, 8, 8, 3)" in line


@pytest.mark.parametrize("patch_size", [16, [16, 8, 16]])
@pytest.mark.parametrize("bundle", ["essa_ssa", "essa_tpp"])
def test_features_lie_on_the_grid_of_the_patches(bundle: str, patch_size: Any, open_bundle: RunBundle) -> None:
    parser = open_bundle(bundle, "inference.yaml", patch_size=patch_size, num_layers=1).parser
    features = parser.get_parsed_content("network_def").eval()(torch.randn(1, 1, 32, 32, 32))
    assert features.shape == (1, 48, 2, 2 if patch_size == 16 else 4, 2)


@pytest.mark.parametrize("pooling", ["mean", "flatten"])
def test_a_classifier_of_oblong_patches_runs_in_inference(pooling: str, open_bundle: RunBundle) -> None:
    values = {"patch_size": [8, 8, 16], "num_layers": 1, "pooling": pooling}
    given, taking = (
        open_bundle("essa_classification", config, **values).parser.get_parsed_content("network_def").eval()
        for config in CONFIGS
    )
    taking.load_state_dict(given.state_dict(), strict=True)
    image = torch.randn(1, 1, 32, 32, 32)
    torch.testing.assert_close(taking(image), given(image))
