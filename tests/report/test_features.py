# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Pictures of features: components, colours that mean the same before and after, and the network left as it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import Dataset
from monai.networks.nets import ViT
from monai.transforms import Compose
from PIL import Image

from monai_essa.adapters.adaptation import adapt
from monai_essa.data import KeyedDataset
from monai_essa.methods import APLA
from monai_essa.report.features import FeaturesPng, component_colours, features_montage

TOKENS = np.random.default_rng(0).normal(size=(3, 12, 4, 4))


def test_the_colours_are_the_first_three_components() -> None:
    directions = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 3)))[0]
    scores = np.random.default_rng(2).normal(size=(48, 3)) * [9, 5, 2]
    tokens = (scores @ directions.T).reshape(3, 4, 4, 12).transpose(0, 3, 1, 2)
    colours = component_colours(tokens).transpose(0, 2, 3, 1).reshape(-1, 3)
    assert [abs(np.corrcoef(colours[:, k], scores[:, k])[0, 1]) > 0.97 for k in range(3)] == [True] * 3
    assert colours.min() == 0 and colours.max() == 1


def test_a_turned_or_mirrored_space_has_the_same_colours() -> None:
    first = component_colours(TOKENS)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0]
    turned = np.einsum("bdxy,de->bexy", TOKENS, turn)
    assert np.abs(component_colours(turned, like=TOKENS) - first).max() < 1e-6
    assert component_colours(TOKENS[:, :2]).shape == (3, 3, 4, 4)  # fewer features than colours


@pytest.mark.parametrize(("size", "rows"), [((16, 16), 2), ((16, 16, 16), 6)])
def test_each_plane_is_a_row_of_three_tiles(size: tuple[int, ...], rows: int) -> None:
    tokens = np.random.default_rng(0).normal(size=(2, 8, *(4,) * len(size)))
    picture = features_montage(np.random.default_rng(1).random((2, 1, *size)), tokens, tokens)
    assert picture.mode == "RGB" and picture.size[1] == 26 + rows * (224 + 6)


def test_the_picture_shows_the_base_and_the_adapted_network_and_leaves_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = adapt(ViT(1, 16, 4, 24, 32, 2, 2, spatial_dims=2), APLA()).train()
    items = [{"image": torch.rand(2, 1, 16, 16)} for _ in range(5)]
    draw: Any = FeaturesPng(SimpleNamespace(encoder=net), KeyedDataset(Dataset(items, Compose([]))), tmp_path / "f.png")  # type: ignore[arg-type]
    trainer = Engine(lambda engine, batch: None)
    draw.attach(trainer)
    trainer.run([0], max_epochs=1)
    page = np.asarray(Image.open(tmp_path / "f.png"))
    width = (page.shape[1] - 26 - 6) // 3
    before, after = page[:, 26 + width : 26 + 2 * width], page[:, 26 + 2 * width : 26 + 3 * width]
    assert np.array_equal(before[26:], after[26:])  # nothing has learned yet

    with torch.no_grad():
        for block in net.blocks:
            block.attn.out_proj.weight.add_(torch.randn(24, 24))
    trained = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    draw(trainer)
    again = np.asarray(Image.open(tmp_path / "f.png"))
    assert np.array_equal(again[:, : 26 + 2 * width], page[:, : 26 + 2 * width])
    assert not np.array_equal(again[:, 26 + 2 * width :], page[:, 26 + 2 * width :])
    assert net.training and all(torch.equal(value, net.state_dict()[name]) for name, value in trained.items())
