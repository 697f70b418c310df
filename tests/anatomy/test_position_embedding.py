# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SegResNet, ViT, ViTAutoEnc

from monai_essa.anatomy import interpolate_positions, keep_grid, kept_grid, state_with_grid

SIZES = {"hidden_size": 24, "mlp_dim": 48, "num_heads": 4}


def vit() -> ViT:
    return ViT(1, (32, 16, 8), 4, num_layers=1, **SIZES)


def test_same_grid_gives_the_very_tensor():
    positions = torch.randn(1, 8, 6)

    assert interpolate_positions(positions, (2, 2, 2), (2, 2, 2)) is positions


def test_ramp_stays_a_ramp_along_its_axis():
    ramp = torch.arange(8.0).reshape(8, 1, 1).expand(8, 4, 2)
    positions = ramp.reshape(1, -1, 1)

    halved = interpolate_positions(positions, (8, 4, 2), (4, 4, 2)).reshape(4, 4, 2)

    # Each new token lies midway between two old ones.
    assert torch.allclose(halved[:, 0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    assert torch.equal(halved, halved[:, :1, :1].expand_as(halved))


def test_same_count_on_another_grid_is_resampled():
    positions = torch.randn(1, 16, 3)

    assert not torch.equal(interpolate_positions(positions, (2, 8), (4, 4)), positions)


def test_constant_positions_stay_constant_in_2d():
    positions = torch.full((1, 16, 3), 0.7)

    assert torch.allclose(interpolate_positions(positions, (4, 4), (3, 7)), torch.full((1, 21, 3), 0.7))


def test_wrong_count_names_both_numbers():
    with pytest.raises(ValueError, match=r"expected 8 position embeddings for the grid \(2, 2, 2\), got 9"):
        interpolate_positions(torch.zeros(1, 9, 3), (2, 2, 2), (1, 1, 1))


def test_a_vit_keeps_its_grid_once_it_is_told_and_so_do_its_copies():
    network = vit()
    assert kept_grid(network) is None

    keep_grid(network, [8, 4, 2])

    assert kept_grid(network) == kept_grid(copy.deepcopy(network)) == (8, 4, 2)
    assert network.state_dict().keys() == vit().state_dict().keys()


@pytest.mark.parametrize(
    ("network", "grid"),
    [
        (UNETR(1, 2, (32, 16, 48), feature_size=4, **SIZES), (2, 1, 3)),
        (ViTAutoEnc(1, (32, 16, 16), 4, num_layers=1, **SIZES), (8, 4, 4)),
        (MaskedAutoEncoderViT(1, (32, 16), 8, num_layers=1, spatial_dims=2, **SIZES), (4, 2)),
        (SegResNet(init_filters=8), None),
        (vit(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_networks_that_keep_their_image_size_tell_their_grid(network: nn.Module, grid: tuple[int, ...] | None):
    assert kept_grid(network) == grid


@pytest.mark.parametrize("grid", [(4, 4, 2), (64,), (8, 8), (0, 0, 0), (-8, -4, 2)])
def test_a_grid_that_cannot_be_the_networks_is_refused(grid):
    with pytest.raises(ValueError, match="which has 64 position embeddings, got"):
        keep_grid(vit(), grid)


def test_another_grid_than_the_one_it_was_built_for_is_refused():
    with pytest.raises(ValueError, match=r"position embeddings for the grid \(2, 1, 3\), got \(3, 1, 2\)"):
        keep_grid(UNETR(1, 2, (32, 16, 48), feature_size=4, **SIZES), (3, 1, 2))


def test_a_state_dict_says_the_grid_and_loads_as_before(tmp_path):
    network = vit()
    assert not hasattr(state_with_grid(network, network.state_dict()), "_metadata")
    keep_grid(network, (8, 4, 2))

    state = state_with_grid(network, network.state_dict())
    torch.save(state, tmp_path / "model.pt")
    read = torch.load(tmp_path / "model.pt", weights_only=True)

    assert read._metadata["patch_embedding"]["grid"] == [8, 4, 2]
    assert read.keys() == network.state_dict().keys()
    vit().load_state_dict(read)
