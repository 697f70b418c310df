# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""2-D segmentation on slices of real volumes: adapted, trained, scored and written on the pixels of each picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose
from PIL import Image

from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.folder import bundle_folder
from monai_essa.bundling.predict import Prediction, predict
from monai_essa.cli.run_commands import dry_run
from monai_essa.data import check_datalist
from monai_essa.error_line import root_cause
from tests.bundles.slices_2d import LABEL_MAP, write_slices

RunBundle = Callable[..., ConfigWorkflow]
CONFIGS = bundle_folder("essa_segmentation") / "configs"
FULL = {"_target_": "monai_essa.methods.FullTuning"}
FLAT: dict[str, Any] = {"img_size": [32, 32], "batch_size": 6}
NETWORKS: dict[str, dict[str, Any]] = {
    "unetr": {},
    "swin_unetr": {"img_size": [64, 64], "feature_size": 12},
    "segresnet": {"feature_size": 8},
}


@pytest.fixture(scope="module")
def slices(hippocampus_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slices(hippocampus_tiny, tmp_path_factory.mktemp("slices"))


@pytest.fixture(scope="module")
def segmented(slices: Path, run_bundle: RunBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UNETR of which the encoder was pre-trained and adapted by APLA on the same pictures."""
    folder = tmp_path_factory.mktemp("stages")
    values = FLAT | {"dataset_dir": slices, "section": "training"}
    network = ("train.yaml", "network_unetr.yaml", "images_2d.yaml")
    run_bundle("essa_ssa", *network, "method_full.yaml", output_dir=folder / "pretrained", **values)
    values |= {"pretrained": folder / "pretrained" / "model.pt"}
    run_bundle("essa_ssa", *network, output_dir=folder / "adapted", **values)
    values |= {"adapter": folder / "adapted" / "adapter.safetensors"}
    run_bundle("essa_segmentation", "train.yaml", "images_2d.yaml", output_dir=folder / "run", costed=True, **values)
    return folder / "run"


def listed(slices: Path, section: str) -> list[dict[str, str]]:
    return json.loads((slices / "dataset.json").read_text(encoding="utf-8"))[section]


def class_ids(slices: Path, item: dict[str, str]) -> np.ndarray:
    mask = np.asarray(Image.open(slices / item["label"]))
    grey = mask[..., 0] if mask.ndim == 3 else mask
    return np.searchsorted([0, *map(int, LABEL_MAP)], grey)


def written_dice(slices: Path, masks: Path) -> dict[str, list[float]]:
    """Dice of each picture and class, of the files alone; NaN where the label lacks the class."""
    rows = {}
    for item in listed(slices, "test"):
        name = Path(item["image"]).name
        label, mask = class_ids(slices, item), np.asarray(Image.open(masks / name.replace(".png", "_seg.png")))
        assert mask.shape == label.shape and mask.dtype == np.uint8
        rows[name] = [
            2 * np.sum((label == c) & (mask == c)) / (np.sum(label == c) + np.sum(mask == c))
            if (label == c).any()
            else np.nan
            for c in (1, 2)
        ]
    return rows


def evaluated_dice(run: Path) -> dict[str, list[float]]:
    with (run / "test" / "dice_raw.csv").open(encoding="utf-8", newline="") as file:
        return {
            Path(row["filename"]).name: [float(row["class0"]), float(row["class1"])] for row in csv.DictReader(file)
        }


def test_what_is_scored_is_what_inference_writes_on_pictures_of_many_sizes(
    slices: Path, segmented: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = FLAT | {"dataset_dir": slices, "output_dir": segmented, "masks": tmp_path / "kept"}
    run_bundle("essa_segmentation", "train.yaml", "images_2d.yaml", "evaluate.yaml", **values)
    values = FLAT | {"dataset_dir": slices / "images", "checkpoint": segmented / "model.pt", "output_dir": tmp_path}
    run_bundle("essa_segmentation", "inference.yaml", "images_2d.yaml", **values)
    scored, written = evaluated_dice(segmented), written_dice(slices, tmp_path)
    assert len({Image.open(slices / item["image"]).size for item in listed(slices, "test")}) > 1
    assert scored.keys() == written.keys()
    for name, row in written.items():
        np.testing.assert_allclose(scored[name], row, rtol=0, atol=1e-6)
        kept = np.asarray(nib.load(tmp_path / "kept" / name.replace(".png", ".nii.gz")).dataobj)
        assert np.array_equal(kept.T, np.asarray(Image.open(tmp_path / name.replace(".png", "_seg.png"))))
    rows = list(csv.DictReader((segmented / "test" / "cases.csv").open(encoding="utf-8")))
    reported = [float(row["dice"] or "nan") for row in rows]
    np.testing.assert_allclose(reported, [value for row in scored.values() for value in row], atol=1e-5)
    assert "hd95_pixels" in rows[0]
    assert json.loads((segmented / "test" / "metrics.json").read_text(encoding="utf-8"))["patients"] == 2


def test_a_bundle_of_the_run_predicts_pictures_and_single_slices(slices: Path, segmented: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(bundle_folder("essa_segmentation"), tmp_path, BundleVariant("flat", run=segmented))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    pictures = [slices / item["image"] for item in listed(slices, "test")]
    written = predict(Prediction(str(bundle), {}), pictures, tmp_path / "masks")
    assert [path.name for path in written] == sorted(path.name.replace(".png", "_seg.png") for path in pictures)
    written_dice(slices, tmp_path / "masks")  # checks the sizes

    pixels = np.asarray(Image.open(pictures[0])).astype(np.int32)
    image = sitk.GetImageFromArray(pixels[None].astype(np.int16))
    image.SetSpacing((0.5, 0.7, 3.0))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    (scan,) = predict(Prediction(str(bundle), {}), [tmp_path / "a.nii.gz"], tmp_path / "scans")
    assert scan.name == "a_seg.nii.gz"
    mask = sitk.ReadImage(str(scan))
    assert mask.GetSize() == image.GetSize() and mask.GetSpacing() == pytest.approx(image.GetSpacing())


@pytest.mark.parametrize("network", NETWORKS)
def test_each_network_learns_from_pictures_and_windows_of_their_own_pixels_do_too(
    network: str, slices: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = FLAT | NETWORKS[network] | {"method": FULL, "start": "random", "samples_per_epoch": 6}
    values |= {"dataset_dir": slices, "output_dir": tmp_path, "resized": [-1, -1]}
    workflow = run_bundle("essa_segmentation", "train.yaml", f"network_{network}.yaml", "images_2d.yaml", **values)
    assert 0 <= workflow.evaluator.state.metrics["val_mean_dice"] <= 1
    assert (tmp_path / "model.pt").is_file()


def test_batches_are_accumulated_to_one_step(slices: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    values = FLAT | {
        "feature_size": 8,
        "method": FULL,
        "start": "random",
        "dataset_dir": slices,
        "output_dir": tmp_path,
    }
    values |= {"batch_size": 2, "accumulation": 3, "samples_per_epoch": 12, "max_epochs": 1}
    workflow = run_bundle("essa_segmentation", "train.yaml", "network_segresnet.yaml", "images_2d.yaml", **values)
    steps = {state["step"].item() for state in workflow.trainer.optimizer.state.values()}
    assert (workflow.trainer.state.iteration, steps) == (6, {2.0})


def test_the_data_check_and_the_dry_run_pass(slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_datalist(slices / "dataset.json").errors == ()
    values = FLAT | {"dataset_dir": str(slices), "method": FULL, "start": "random", "hidden_size": 48, "mlp_dim": 96}
    values |= {"num_heads": 4, "labels": {"background": 0, "a": 1, "b": 2}, "output_dir": str(tmp_path / "run")}
    assert dry_run([str(CONFIGS / "train.yaml"), str(CONFIGS / "images_2d.yaml")], values) == 0
    assert "images: 32 x 32 pixels" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.fixture
def load(open_bundle: RunBundle) -> Callable[[Path, Path], dict[str, Any]]:
    """Loads an image and its mask as training does."""

    def load_(image: Path, label: Path) -> dict[str, Any]:
        values = FLAT | {"datalist": {"label_map": LABEL_MAP}, "label_map": {255: 1}}
        parser = open_bundle("essa_segmentation", "train.yaml", "images_2d.yaml", **values).parser
        return Compose(parser.get_parsed_content("load"))({"image": str(image), "label": str(label)})

    return load_


def test_a_picture_may_be_the_mask_of_a_dicom_slice(load: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (12, 10), dtype=np.uint16)
    image = sitk.GetImageFromArray(pixels[None])
    image.SetSpacing((0.2, 0.2, 1.0))
    sitk.WriteImage(image, str(tmp_path / "image.dcm"))
    Image.fromarray(np.where(pixels > 2000, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    item = load(tmp_path / "image.dcm", tmp_path / "mask.png")
    assert item["image"].shape == item["label"].shape == (1, 10, 12)
    assert torch.equal(item["label"] == 1, item["image"] > 2000)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.eye(12, 10)[..., None] * [255, 0, 0], "mask.png: expected a mask of class ids or grey values, got colours"),
        (np.eye(12, 10) * 99, r"mask.png: expected ids 0 to 2, got 99"),
        (np.eye(10, 12) * 255, r"mask.png: expected the image's shape \(1, 10, 12\), got \(1, 12, 10\)"),
    ],
    ids=["colours", "values", "shape"],
)
def test_a_mask_that_does_not_fit_is_refused_in_one_line(
    mask: np.ndarray, reason: str, load: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    Image.fromarray(np.arange(120, dtype=np.uint8).reshape(12, 10)).save(tmp_path / "image.png")
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(Exception) as caught:
        load(tmp_path / "image.png", tmp_path / "mask.png")
    cause = root_cause(caught.value)
    assert len(str(cause).splitlines()) == 1
    with pytest.raises(type(cause), match=reason):
        raise cause
