# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A bundle's inference runs on given files, with the weights that are wanted, and keeps each file's geometry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from monai_essa.cli.prediction import Prediction, predict
from monai_essa.data import read_volume
from monai_essa.data.volume_search import find_volumes

VALUES: dict[str, Any] = {"img_size": [32] * 3, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "feature_size": 4}
VALUES |= {"labels": {"background": 0, "ball": 1}}


@pytest.fixture
def with_weights() -> Callable[..., Prediction]:
    """The shipped segmentation bundle, made tiny, with the weights of a file."""

    def make(weights: Path, **more: Any) -> Prediction:
        return Prediction("essa_segmentation", VALUES | {"checkpoint": str(weights)}, **more)

    return make


def label_map(folder: Path) -> np.ndarray:
    (path,) = folder.rglob("*.nii.gz")
    return np.asarray(nib.load(path).dataobj)


def test_each_volume_gets_a_label_map_on_its_own_grid(
    with_weights, segmentation_runs, volumes: Path, tmp_path: Path
) -> None:
    inputs = [volumes / "case0.nii.gz", volumes / "case2.nii.gz"]
    written = predict(with_weights(segmentation_runs[0] / "model.pt"), inputs, tmp_path)
    assert [path.name for path in written] == ["case0_seg.nii.gz", "case2_seg.nii.gz"]
    for path, image in zip(written, inputs, strict=True):
        assert nib.load(path).shape == nib.load(image).shape
        assert set(np.unique(np.asarray(nib.load(path).dataobj))) <= {0, 1}


def test_an_adapter_on_its_base_predicts_what_its_merged_checkpoint_does(
    with_weights, segmentation_runs, volumes: Path, tmp_path: Path
) -> None:
    first, second = segmentation_runs
    case = [volumes / "case0.nii.gz"]
    predict(with_weights(first / "model.pt"), case, tmp_path / "a")
    predict(with_weights(second / "model.pt"), case, tmp_path / "b")
    # Site B's adapter on the weights of site A: the same frozen base, all that learns comes from the adapter.
    predict(with_weights(first / "model.pt", adapter=second / "adapter.safetensors"), case, tmp_path / "swapped")
    a, b, swapped = (label_map(tmp_path / name) for name in ("a", "b", "swapped"))
    assert not np.array_equal(a, b)
    assert np.array_equal(swapped, b)


def test_the_base_of_an_adapter_may_be_a_file_of_its_own(
    with_weights, segmentation_runs, files, volumes: Path, tmp_path: Path
) -> None:
    run, case = segmentation_runs[0], [volumes / "case0.nii.gz"]
    predict(with_weights(run / "model.pt"), case, tmp_path / "merged")
    prediction = with_weights(tmp_path / "none.pt", adapter=run / "adapter.safetensors", base=files.base)
    predict(prediction, case, tmp_path / "base")
    assert np.array_equal(label_map(tmp_path / "merged"), label_map(tmp_path / "base"))


def test_an_adapter_of_another_base_is_refused(with_weights, segmentation_runs, volumes: Path, tmp_path: Path) -> None:
    run = segmentation_runs[0]
    state = torch.load(run / "model.pt", weights_only=True)
    state["vit.norm.weight"] += 1
    torch.save(state, tmp_path / "other.pt")
    prediction = with_weights(tmp_path / "other.pt", adapter=run / "adapter.safetensors")
    with pytest.raises(ValueError, match="was trained on another base: 1 of"):
        predict(prediction, [volumes / "case0.nii.gz"], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_missing_weights_are_named(with_weights, volumes: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt: no such weight file; put the bundle's model.pt there"):
        predict(with_weights(tmp_path / "nowhere.pt"), [volumes / "case0.nii.gz"], tmp_path / "out")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_are_read_and_keep_their_geometry(
    suffix: str, with_weights, segmentation_runs, volumes: Path, tmp_path: Path
) -> None:
    image = sitk.ReadImage(str(volumes / "case1.nii.gz"))
    image.SetDirection([0, 0, -1, 1, 0, 0, 0, -1, 0])
    image.SetOrigin([7.0, -20.0, 3.0])
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    (written,) = predict(
        with_weights(segmentation_runs[0] / "model.pt"), [tmp_path / f"scan{suffix}"], tmp_path / "out"
    )
    array, affine = read_volume(tmp_path / f"scan{suffix}")
    assert nib.load(written).shape == array.shape[1:]
    assert np.allclose(nib.load(written).affine, affine, atol=1e-4)


def test_volumes_of_one_name_in_two_folders_do_not_meet(
    with_weights, segmentation_runs, volumes: Path, tmp_path: Path
) -> None:
    inputs = []
    for number in range(2):
        folder = tmp_path / "in" / f"p{number}"
        folder.mkdir(parents=True)
        inputs.append(Path(shutil.copy(volumes / f"case{number}.nii.gz", folder / "scan.nii.gz")))
    written = predict(with_weights(segmentation_runs[0] / "model.pt"), inputs, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        "p0/scan_seg.nii.gz",
        "p1/scan_seg.nii.gz",
    ]


def test_a_bundle_without_a_checkpoint_loader_is_refused(volumes: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.yaml").write_text("dataset:\n  data: []\nrun: []\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no CheckpointLoader"):
        predict(Prediction(str(tmp_path), {}), [volumes / "case0.nii.gz"], tmp_path / "out")


@pytest.mark.parametrize("name", ["dicom_mr_oblique_t1post", "nifti_psr_orientation", "nrrd_lps_flipped"])
def test_odd_files_are_segmented_on_their_own_grid(
    name: str, with_weights, segmentation_runs, data_dir: Path, tmp_path: Path
) -> None:
    path = find_volumes(data_dir / "odd-files" / name)[0].path
    prediction = with_weights(segmentation_runs[0] / "model.pt")
    coarse = Prediction(prediction.bundle, {**prediction.values, "spacing": [8.0, 8.0, 8.0]})
    (written,) = predict(coarse, [path], tmp_path)
    array, affine = read_volume(path)
    assert nib.load(written).shape == array.shape[1:]
    assert np.allclose(nib.load(written).affine, affine, atol=1e-3)
