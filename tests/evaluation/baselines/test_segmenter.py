# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The ridge floor of a segmentation finds what the features of a frozen encoder show, and takes nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from monai.networks import one_hot
from monai.networks.nets import SegResNet, SwinUNETR, ViT
from torch import Tensor, nn

from monai_essa.evaluation.baselines import RidgeSegmenter, segmenter
from monai_essa.evaluation.baselines.segmenter import feature_grid

CROPS = {2: (64, 64), 3: (32, 32, 32)}


def network(kind: str, axes: int) -> nn.Module:
    torch.manual_seed(0)
    if kind == "vit":
        return ViT(1, CROPS[axes], (8,) * axes, 48, 96, num_layers=1, num_heads=2, spatial_dims=axes)
    if kind == "swin":
        return SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), spatial_dims=axes)
    return SegResNet(axes, init_filters=8)


def scan(seed: int, axes: int, size: int) -> dict[str, Tensor]:
    """Return a noisy scan with a bright block in another place for each seed, and its label."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.zeros(1, *(size,) * axes)
    start = torch.randint(0, size // 2, (axes,), generator=draw).tolist()
    label[(0, *(slice(first, first + size // 2) for first in start))] = 1
    return {"image": label + 0.1 * torch.randn(label.shape, generator=draw), "label": label}


def dice(predicted: Tensor, label: Tensor) -> float:
    maps = (one_hot(each.argmax(1, keepdim=True) if each is predicted else each[None].long(), 2)
            for each in (predicted, label))  # fmt: skip
    return float(compute_dice(*maps, include_background=False))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("kind", ["vit", "swin", "segresnet"])
def test_what_the_features_show_is_found_at_any_place(kind: str, axes: int) -> None:
    size = CROPS[axes][0]
    floor = RidgeSegmenter(network(kind, axes), [scan(seed, axes, size) for seed in range(12)], 2, CROPS[axes])
    held_out = [scan(seed, axes, size) for seed in range(100, 104)]
    found = [dice(floor(each["image"][None]), each["label"]) for each in held_out]
    assert sum(found) / len(found) > 0.7


def test_scans_larger_than_a_crop_are_read_in_windows_and_the_label_alone_teaches_nothing() -> None:
    items: list[Any] = [scan(seed, 2, 96) for seed in range(7)]
    floor = RidgeSegmenter(network("vit", 2), items, 2, CROPS[2])
    assert len(floor.ridge.scaled) == 7 * 2 * 2 * 64  # four windows of 8 x 8 positions each
    blank = torch.zeros(1, 1, *CROPS[2])
    assert floor(blank).softmax(1)[:, 1].max() < 0.5  # no object: none is found


def test_positions_of_many_scans_are_thinned_alike_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "_MOST_POSITIONS", 100)
    items = [scan(seed, 3, 32) for seed in range(10)]
    first, second = (RidgeSegmenter(network("vit", 3), items, 2, CROPS[3]) for _ in range(2))
    assert len(first.ridge.scaled) == 100
    assert torch.equal(first(items[0]["image"][None]), second(items[0]["image"][None]))


def test_a_small_class_that_every_regression_shrinks_is_still_found() -> None:
    predicted = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.65, 0.35]])
    truth = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert segmenter._best_factor(predicted, truth) == 0.35  # 0.7 x 0.35 < 0.3, and 0.8 x 0.35 > 0.2
    assert segmenter._best_factor(truth, truth) == 1.0
    assert segmenter._best_factor(np.full((4, 2), np.nan), truth) == 1.0  # one patient: nobody is left out


def test_tokens_lie_where_their_patches_are() -> None:
    vit = network("vit", 2).eval()
    image = torch.zeros(1, 1, 64, 64)
    image[..., 8:16, 40:48] = 1  # the patch in row 1, column 5
    changed = (feature_grid(vit, image) - feature_grid(vit, torch.zeros_like(image))).abs().sum(1)[0]
    assert divmod(int(changed.argmax()), 8) == (1, 5)


def test_no_scan_is_one_line() -> None:
    with pytest.raises(ValueError, match="expected training scans for the ridge regression, got none"):
        RidgeSegmenter(network("vit", 2), [], 2, CROPS[2])
