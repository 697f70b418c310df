# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.networks.nets import ViT

from monai_essa.engines import AveragedInferer, ensemble_networks, warn_of_sides

SETTINGS = {"labels": {"background": 0, "liver": 1}, "spacing": [1.0, 1.0], "axcodes": None}


def convolution(dims: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return (nn.Conv2d, nn.Conv3d)[dims - 2](1, 3, 3, padding=1)


def write_run(folder: Path, settings: dict[str, Any], network: nn.Module, status: str = "finished") -> Path:
    folder.mkdir()
    record = {"seed": 0, "data": "", "config": {}, "status": status, "settings": settings}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    torch.save(network.state_dict(), folder / "model.pt")
    return folder


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("dims", "flips"), [(2, [0, 1]), (3, [2]), (3, [0, 1, 2]), (3, [])])
@torch.no_grad()
def test_the_mean_is_that_of_a_plain_loop(dims: int, flips: list[int], multi_label: bool) -> None:
    networks = [convolution(dims, seed) for seed in range(2)]
    images = torch.randn(2, 1, *[6, 5, 4][:dims])
    logits = AveragedInferer(SimpleInferer(), flips, networks[1:], multi_label)(images, networks[0])
    subsets = [axes for count in range(len(flips) + 1) for axes in itertools.combinations(flips, count)]
    chances = [
        torch.flip(
            (torch.sigmoid if multi_label else lambda x: torch.softmax(x, 1))(
                network(torch.flip(images, [axis + 2 for axis in axes]))
            ),
            [axis + 2 for axis in axes],
        )
        for network in networks
        for axes in subsets
    ]
    assert len(chances) == 2 * 2 ** len(flips)
    expected = torch.stack(chances).mean(0)
    got = logits.sigmoid() if multi_label else logits.softmax(1)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-4)
    assert torch.equal(got.argmax(1), expected.argmax(1))


@torch.no_grad()
def test_windows_are_mirrored_with_the_image() -> None:
    """A network that knows nothing of sides gives the same with and without flips, its padding included."""
    network = nn.Conv2d(1, 2, 1)
    windows = SlidingWindowInferer((4, 4), overlap=0.5, mode="gaussian")
    images = torch.randn(1, 1, 9, 7)
    plain = windows(images, network).softmax(1)
    torch.testing.assert_close(AveragedInferer(windows, [0, 1])(images, network).softmax(1), plain)


@torch.no_grad()
def test_the_class_of_an_image_has_no_axis_to_mirror_back() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    images = torch.randn(3, 1, 4, 4)
    expected = (network(images).softmax(1) + network(images.flip(3)).softmax(1)) / 2
    torch.testing.assert_close(AveragedInferer(SimpleInferer(), [1])(images, network).softmax(1), expected)


@pytest.mark.parametrize(
    ("flips", "message"),
    [
        ([0, 0], "flips: expected each axis once"),
        ([3], r"flips\[0\]: expected a whole number from 0 to 2"),
        (0, "flips"),
    ],
)
def test_flips_that_are_no_axes_are_refused(flips: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AveragedInferer(SimpleInferer(), flips)


def test_an_axis_that_the_image_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="flips: the images have 2 axes, counted from 0, got 2"):
        AveragedInferer(SimpleInferer(), [1, 2])(torch.zeros(1, 1, 4, 4), nn.Identity())


def vit(seed: int) -> ViT:
    torch.manual_seed(seed)
    return ViT(1, 16, 8, 24, 48, 1, 4, spatial_dims=2)


def test_an_ensemble_has_the_networks_of_its_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), SETTINGS, vit(seed)) for seed in range(3)]
    networks = ensemble_networks(vit(9), runs, SETTINGS, tmp_path / "ensemble")
    assert len(networks) == 2 and not any(network.training for network in networks)
    for seed, network in enumerate(networks, start=1):
        expected = vit(seed).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    assert ensemble_networks(vit(9), [], SETTINGS, tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        (
            SETTINGS | {"labels": {"background": 0, "spleen": 1}},
            "finished",
            "1 has labels {'background': 0, 'spleen': 1}",
        ),
        (
            SETTINGS | {"spacing": [2.0, 1.0]},
            "finished",
            r"1 has spacing \[2.0, 1.0\], expected \[1.0, 1.0\]; average runs",
        ),
        (SETTINGS, "running", "1 holds an unfinished run"),
    ],
    ids=["labels", "spacing", "unfinished"],
)
def test_a_run_that_does_not_belong_is_refused(settings: dict, status: str, message: str, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "0", SETTINGS, vit(0)), write_run(tmp_path / "1", settings, vit(1), status)]
    with pytest.raises(ValueError, match=message):
        ensemble_networks(vit(9), runs, SETTINGS, tmp_path / "ensemble")


def test_an_ensemble_does_not_write_into_one_of_its_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "0", SETTINGS, vit(0))
    with pytest.raises(
        ValueError, match="ensemble: output_dir is .*0, one of the runs; give the ensemble a folder of its"
    ):
        ensemble_networks(vit(9), [run], SETTINGS, run)
    with pytest.raises(FileNotFoundError, match="holds no run.json"):
        ensemble_networks(vit(9), [tmp_path / "none"], SETTINGS, tmp_path)


@pytest.mark.parametrize(
    ("flips", "name", "axcodes", "warned"),
    [
        ([0], "left lung", "RAS", True),
        ([0], "lung_R", "RAS", True),
        ([1, 2], "left lung", "RAS", False),
        ([2], "left lung", "SPL", True),
        ([1], "left lung", None, True),
        ([0], "cleft", "RAS", False),
        ([], "left lung", "RAS", False),
    ],
)
def test_a_flip_that_confuses_labels_is_warned_of(
    flips: list[int], name: str, axcodes: str | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "monai_essa"):
        warn_of_sides(flips, {"background": 0, name: 1}, axcodes)
    assert bool(caplog.messages) == warned
