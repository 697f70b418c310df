# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""2-D images through the bundles of self-supervision: learned from an NPZ file, reconstructed, and embedded as PNG."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.networks.nets import ResNet, ViT
from PIL import Image

RunBundle = Callable[..., ConfigWorkflow]
CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "essa_ssa" / "configs"
FLAT: dict[str, Any] = {"img_size": [8, 8], "patch_size": 4, "num_layers": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of 10 x 8 pixels: an NPZ file, and the same as PNG files beside it."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 255, (12, 8, 10), dtype=np.uint8)
    np.savez(folder / "images.npz", train_images=pixels, train_labels=np.arange(12)[:, None] % 2)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def pretrained(images: Path, run_bundle: RunBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pretrained") / "run"
    files = ("train.yaml", "method_full.yaml", "images_2d.yaml")
    run_bundle("essa_ssa", *files, datalist=images / "images.npz", output_dir=run, costed=True, **FLAT)
    return run


def expected_features(images: Path, weights: Path) -> np.ndarray:
    """Mean tokens of the normalised and resized images, without the bundle."""
    vit = ViT(1, [8, 8], 4, 48, 96, 2, 4, spatial_dims=2, qkv_bias=True).eval()
    vit.load_state_dict(torch.load(weights, weights_only=True))
    pixels = torch.tensor(np.load(images / "images.npz")["train_images"]).mT[:, None].float()
    pixels = (pixels - pixels.mean((1, 2, 3), keepdim=True)) / pixels.std((1, 2, 3), keepdim=True, correction=0)
    pixels = torch.nn.functional.interpolate(pixels, (8, 8), mode="area")
    with torch.no_grad():
        return vit(pixels)[0].mean(1).numpy()


@pytest.mark.parametrize("bundle", ["essa_ssa", "essa_tpp"])
def test_inference_embeds_png_files(
    bundle: str, images: Path, pretrained: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    values = FLAT | {"checkpoint": pretrained / "model.pt", "dataset_dir": images, "output_dir": tmp_path}
    run_bundle(bundle, "inference.yaml", "images_2d.yaml", **values)
    rows = list(csv.reader((tmp_path / "features.csv").open(encoding="utf-8")))
    assert [Path(row[0]).name for row in rows] == [f"{number:02d}.png" for number in range(12)]
    got = np.array([[float(value) for value in row[1:]] for row in rows])
    np.testing.assert_allclose(got, expected_features(images, pretrained / "model.pt"), atol=1e-4)


def test_a_finished_run_reconstructs_2d_images(
    images: Path, pretrained: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    for name in ("model.pt", "pretext_head.safetensors"):
        (tmp_path / name).write_bytes((pretrained / name).read_bytes())
    files = ("train.yaml", "images_2d.yaml", "reconstruct.yaml")
    run_bundle("essa_ssa", *files, datalist=images / "images.npz", output_dir=tmp_path, **FLAT)
    picture = (tmp_path / "reconstructions" / "0000.png").read_bytes()
    assert picture == (pretrained / "reconstruction.png").read_bytes()


@pytest.mark.parametrize("network", ["vit", "unetr", "swin_unetr", "segresnet", "resnet"])
def test_inference_has_the_encoder_of_every_network_in_2d(network: str, open_bundle: RunBundle) -> None:
    own = [f"inference_{network}.yaml"] if (CONFIGS / f"inference_{network}.yaml").exists() else []
    values = {"img_size": [64, 64], "num_layers": 12, "feature_size": 24}
    train = open_bundle("essa_ssa", "train.yaml", f"network_{network}.yaml", "images_2d.yaml", **values).parser
    inference = open_bundle("essa_ssa", "inference.yaml", *own, "images_2d.yaml", **values).parser
    given, taking = (parser.get_parsed_content("network_def") for parser in (train, inference))
    prefix = {"unetr": "vit.", "swin_unetr": "swinViT."}.get(network, "")
    state = {name.removeprefix(prefix): tensor for name, tensor in given.state_dict().items() if prefix in name}
    assert {
        name: tensor.shape for name, tensor in taking.state_dict().items() if tensor.shape != state[name].shape
    } == {}
    assert taking.eval()(torch.zeros(1, 1, 64, 64)).dim() == 4


def test_a_resnet_learns_from_2d_images_and_embeds_them(images: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    values: dict[str, Any] = {"img_size": [64, 64], "feature_size": 4, "batch_size": 4}
    files = ("train.yaml", "method_full.yaml", "images_2d.yaml", "network_resnet.yaml")
    run_bundle("essa_ssa", *files, datalist=images / "images.npz", output_dir=tmp_path / "run", **values)
    values |= {"checkpoint": tmp_path / "run" / "model.pt", "dataset_dir": images, "output_dir": tmp_path}
    run_bundle("essa_ssa", "inference.yaml", "images_2d.yaml", "inference_resnet.yaml", **values)
    rows = list(csv.reader((tmp_path / "features.csv").open(encoding="utf-8")))
    assert len(rows) == 12 and {len(row) for row in rows} == {1 + 32 * 4}
    net = ResNet(
        "bottleneck", [3, 4, 6, 3], [4, 8, 16, 32], 2, 1, conv1_t_stride=2, feed_forward=False, bias_downsample=False
    )
    net.load_state_dict(torch.load(tmp_path / "run" / "model.pt", weights_only=True))  # the encoder is the whole of it
