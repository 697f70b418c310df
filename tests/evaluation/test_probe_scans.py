# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Crops lie where they say, targets belong to them, and a planted encoder is found alive on real X-rays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import ViT
from torch import Tensor, nn

from monai_essa.cli import main
from monai_essa.evaluation.probe_scans import _neighbour_rows, probe_networks, scan_crops

SHAPE = (20, 16, 12)
ITEMS = [{"image": f"scans/p{number:02}.nii.gz"} for number in range(24)]
ARGS = ["hidden_size=24", "mlp_dim=24", "num_layers=1", "num_heads=2"]


def places(item: Mapping[str, Any]) -> dict[str, Tensor]:
    """A scan whose voxels say where they are along each axis."""
    axes = torch.meshgrid(*(torch.arange(size) / 1.0 for size in SHAPE), indexing="ij")
    return {"image": MetaTensor(torch.stack(axes))}


def test_the_target_of_an_unlabelled_crop_is_its_middle() -> None:
    crops = scan_crops(ITEMS, places, (8, 8, 8))

    assert crops.question == "the position" and len(crops.images) == 48
    for image, target in zip(crops.images, crops.targets, strict=True):
        assert image.shape == (3, 8, 8, 8) and type(image) is Tensor
        middle = image.mean(dim=(1, 2, 3)) + 0.5
        assert np.allclose(middle / torch.tensor(SHAPE), target)


def test_the_second_view_is_a_quarter_of_the_crop_aside() -> None:
    crops = scan_crops(ITEMS, places, (8, 8, 8))
    moves = torch.stack([b[:, 0, 0, 0] - a[:, 0, 0, 0] for a, b in zip(crops.images, crops.aside, strict=True)])
    assert moves.abs().max() == 2 and (moves.abs() == 2).float().mean() > 0.5  # less at the border


def test_the_target_of_a_mapped_crop_is_the_share_of_each_label() -> None:
    def labelled(item: Mapping[str, Any]) -> dict[str, Tensor]:
        scan = places(item)
        return scan | {"label": MetaTensor(scan["image"][:1] // 7)}

    crops = scan_crops(ITEMS, labelled, (8, 8, 8))
    assert crops.question == "the share of each label"
    for image, target in zip(crops.images, crops.targets, strict=True):
        classes = (image[0] // 7).ravel()
        assert np.allclose([(classes == number).float().mean() for number in range(3)], target)


def test_the_target_of_an_image_is_its_class() -> None:
    crops = scan_crops(ITEMS, lambda item: places(item) | {"label": torch.tensor(int(item["image"][7]))}, (8, 8, 8))
    assert crops.question == "the class"
    tens = [int(patient[1]) for patient in crops.patients]
    assert (crops.targets.argmax(axis=1) == tens).all() and crops.targets.shape[1] == 3


def test_one_scan_of_each_patient_and_never_more_than_64_crops() -> None:
    many = [{"image": f"scans/p{number:03}_{scan}.nii.gz", "patient": f"p{number:03}"}
            for number in range(90) for scan in "ab"]  # fmt: skip
    read: list[str] = []

    def noted(item: Mapping[str, Any]) -> dict[str, Tensor]:
        read.append(str(item["patient"]))
        return places(item)

    crops = scan_crops(many, noted, (8, 8, 8))
    assert len(crops.images) == len(set(crops.patients)) == len(read) == len(set(read)) == 64


def test_scans_of_few_patients_are_not_even_read() -> None:
    def unread(item: Mapping[str, Any]) -> dict[str, Tensor]:
        raise AssertionError("nothing is decided, so nothing is read")

    assert scan_crops(ITEMS[:19], unread, (8, 8, 8)).images == []


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="got an empty data list"):
        scan_crops([], places, (8, 8, 8))


def test_an_encoder_that_passes_places_on_is_alive_beside_deaf_ones() -> None:
    """The planted network keeps the mean of a patch, which says where it is; the others lost it."""

    def vit(scale: float) -> nn.Module:
        net = ViT(3, (8, 8, 8), 8, hidden_size=12, mlp_dim=12, num_layers=1, num_heads=2)
        with torch.no_grad():
            net.patch_embedding.patch_embeddings.weight.mul_(scale)
        return net

    crops = scan_crops(ITEMS, places, (8, 8, 8))
    assert probe_networks(vit(1.0), [vit(0.0) for _ in range(3)], crops)[0].word == "alive"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    net = ViT(1, (28, 28), 7, hidden_size=24, mlp_dim=24, num_layers=1, num_heads=2, spatial_dims=2, qkv_bias=True)
    torch.save(net.state_dict(), tmp_path / "random.pt")
    return tmp_path / "random.pt"


def test_random_weights_show_no_difference_on_x_rays(
    data_dir: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data_dir / "pneumoniamnist" / "pneumoniamnist.npz"
    options = ["--bundle", "essa_classification", "--images", "2d"]
    assert main(["weights", "probe", str(weights), str(images), *options, "--args", *ARGS, "patch_size=7",
                 "img_size=[28,28]", "device=cpu"]) == 0  # fmt: skip

    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("time: ") and "nearest view" in out[1]
    assert out[2].startswith("no difference shown: explained share of the class ")
    assert out[2].endswith("64 crops of 64 patients")


def test_sixteen_patients_decide_nothing(
    hippocampus_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = ViT(1, (16, 16, 16), 8, hidden_size=24, mlp_dim=24, num_layers=1, num_heads=2, qkv_bias=True)
    torch.save(net.state_dict(), tmp_path / "vit.pt")
    datalist = str(hippocampus_tiny / "dataset.json")
    assert main(["weights", "probe", str(tmp_path / "vit.pt"), datalist, "--args", *ARGS, "patch_size=8",
                 "img_size=[16,16,16]", "device=cpu"]) == 0  # fmt: skip
    assert "not decided: " in capsys.readouterr().out


def test_a_file_that_does_not_fit_is_one_line(
    hippocampus_tiny: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "probe", str(weights), str(hippocampus_tiny / "dataset.json"), "--args", "device=cpu",
                 *ARGS]) == 1  # fmt: skip
    assert capsys.readouterr().err.count("\n") == 1


def test_an_adaptation_is_compared_by_labels_only_if_it_is_named(
    data_dir: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data_dir / "pneumoniamnist" / "pneumoniamnist.npz"
    options = ["--bundle", "essa_classification", "--images", "2d", "--after", str(weights)]
    assert main(["weights", "probe", str(weights), str(images), *options, "--args", *ARGS, "patch_size=7",
                 "img_size=[28,28]", "device=cpu"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "k-NN with labels, mean recall over the classes: before 0." in out
    assert "difference 0.000 (no interval: all patients agree); 600 rows of 600 patients" in out


def test_patches_of_label_maps_are_rows_with_the_label_in_their_middle() -> None:
    def labelled(item: Mapping[str, Any]) -> dict[str, Tensor]:
        scan = places(item)
        return scan | {"label": MetaTensor((scan["image"][:1] > 9).float())}

    crops = scan_crops(ITEMS, labelled, (8, 8, 8))
    net = ViT(3, (8, 8, 8), 4, hidden_size=12, mlp_dim=12, num_layers=1, num_heads=2)
    features, classes, patients = _neighbour_rows(net, crops)
    assert features.shape == (48 * 8, 12) and len(patients) == 48 * 8
    middles = [crops.images[0][0, 2 + 4 * x, 2 + 4 * y, 2 + 4 * z] > 9 for x, y, z in np.ndindex(2, 2, 2)]
    assert classes[:8].tolist() == [float(middle) for middle in middles]
