# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, ViT, ViTAutoEnc

from monai_essa.anatomy import encoder_view, interpolate_positions, keep_grid, kept_grid

SIZES = {"hidden_size": 48, "mlp_dim": 64, "num_heads": 4}


def vit(img_size=32, **changes) -> ViT:
    return ViT(1, img_size, 8, num_layers=2, **SIZES, **changes).eval()


@pytest.mark.parametrize(
    "changes",
    [{}, {"proj_type": "perceptron"}, {"pos_embed_type": "sincos"}, {"classification": True}, {"spatial_dims": 2}],
    ids=str,
)
def test_final_tokens_are_those_of_the_network(changes):
    network = vit(**changes)
    images = torch.randn(2, 1, *[32] * changes.get("spatial_dims", 3))
    view = encoder_view(network)

    with torch.no_grad():
        tokens = view.encode(view.embed(images))
        hidden = network(images)[1][-1]

    # A class token stands first in the hidden state; the view leaves it out.
    assert torch.allclose(tokens, network.norm(hidden)[:, -tokens.shape[1] :], atol=1e-6)


def test_final_tokens_of_unetr_are_those_of_its_vit():
    network = UNETR(2, 3, (32, 16, 48), feature_size=4, **SIZES).eval()
    images = torch.randn(1, 2, 32, 16, 48)
    view = encoder_view(network)

    assert torch.allclose(view.encode(view.embed(images)), network.vit(images)[0], atol=1e-6)


def test_encoder_of_the_masked_autoencoder_is_run_to_its_last_norm():
    network = MaskedAutoEncoderViT(1, 32, 8, num_layers=2, decoder_hidden_size=24, decoder_num_heads=2, **SIZES).eval()
    images = torch.randn(2, 1, 32, 32, 32)
    view = encoder_view(network)

    class_token = network.cls_token.expand(2, -1, -1)
    expected = network.blocks(torch.cat([class_token, network.patch_embedding(images)], 1))[:, 1:]

    assert torch.allclose(view.encode(view.embed(images)), expected, atol=1e-6)


def test_autoencoder_is_viewed_with_its_image_size():
    network = ViTAutoEnc(1, (32, 16, 16), 4, num_layers=1, **SIZES)

    assert encoder_view(network).native_grid == (8, 4, 4)


def test_replaced_layers_are_the_ones_that_run():
    network = vit()
    view = encoder_view(network)
    images = torch.randn(1, 1, 32, 32, 32)
    before = view.encode(view.embed(images))

    for block in network.blocks:
        block.attn.out_proj = nn.Sequential(block.attn.out_proj, nn.Tanh())

    assert not torch.allclose(view.encode(view.embed(images)), before)
    assert torch.allclose(view.encode(view.embed(images)), network(images)[0], atol=1e-6)


def test_subset_of_tokens_gives_a_subset():
    view = encoder_view(vit(classification=True))

    assert view.encode(view.embed(torch.randn(2, 1, 32, 32, 32))[:, :5]).shape == (2, 5, 48)


@pytest.mark.parametrize("classification", [False, True])
def test_class_token_is_in_front_where_it_is_asked_for(classification):
    view = encoder_view(vit(classification=classification))
    tokens = view.embed(torch.randn(2, 1, 32, 32, 32))[:, :5]

    everything = view.encode_all(tokens)

    assert everything.shape == (2, 5 + classification, 48)
    assert torch.equal(everything[:, -5:], view.encode(tokens))


@pytest.mark.parametrize("shape", [(16, 16, 16), (8, 8, 8), (8, 32, 64), (48, 40, 32)])
def test_other_crops_get_interpolated_positions(shape):
    view = encoder_view(vit(), grid=(4, 4, 4))
    images = torch.zeros(1, 1, *shape)

    tokens = view.embed(images)

    assert tokens.shape == (1, torch.tensor(view.grid(shape)).prod(), 48)


def test_one_token_crop_gets_the_mean_position_and_not_all_of_them():
    network = vit(img_size=16)  # MONAI's own embedding broadcasts here: 8 positions for one token
    view = encoder_view(network, grid=(2, 2, 2))

    tokens = view.embed(torch.zeros(1, 1, 8, 8, 8))

    bias = network.patch_embedding.patch_embeddings.bias
    assert tokens.shape == (1, 1, 48)
    assert torch.allclose(tokens[0, 0], bias + network.patch_embedding.position_embeddings[0].mean(0), atol=1e-6)


def test_crop_of_the_same_count_but_another_grid_is_interpolated_where_the_grid_is_known():
    network = UNETR(1, 2, (32, 32, 16), feature_size=4, **SIZES)
    view = encoder_view(network)

    turned = view.embed(torch.zeros(1, 1, 16, 32, 32))

    assert not torch.allclose(turned, network.vit.patch_embedding(torch.zeros(1, 1, 16, 32, 32)))


@pytest.mark.parametrize("img_size", [32, (32, 32, 16), (64, 32, 16)])
def test_vit_that_was_not_told_its_grid_takes_its_own_count_only(img_size):
    """64 positions are (4, 4, 4), (8, 4, 2) or (16, 2, 2): a ViT keeps the count alone, and no guess is made."""
    view = encoder_view(vit(img_size=img_size))
    shape = img_size if isinstance(img_size, tuple) else (img_size,) * 3

    assert view.embed(torch.zeros(1, 1, *shape)).shape[2] == 48
    with pytest.raises(ValueError, match=r"cannot interpolate the \d+ position embeddings .* grid \(2, 2, 2\).*grid="):
        view.embed(torch.zeros(1, 1, 16, 16, 16))


@pytest.mark.parametrize("said", [lambda network: None, lambda network: keep_grid(network, (8, 4, 2))])
def test_positions_of_unequal_sides_are_interpolated_from_their_own_grid(said):
    network = vit(img_size=(64, 32, 16))
    said(network)
    view = encoder_view(network) if kept_grid(network) else encoder_view(network, grid=(8, 4, 2))
    images = torch.zeros(1, 1, 32, 32, 16)

    positions = view.embed(images) - network.patch_embedding.patch_embeddings(images).flatten(2).transpose(1, 2)

    expected = interpolate_positions(network.patch_embedding.position_embeddings, (8, 4, 2), (4, 4, 2))
    assert torch.allclose(positions, expected, atol=1e-6)


@pytest.mark.parametrize("proj_type", ["conv", "perceptron"])
def test_sizes_are_read_from_the_weights(proj_type):
    network = ViT(3, (32, 24), (8, 4), num_layers=1, proj_type=proj_type, spatial_dims=2, **SIZES)
    view = encoder_view(network)

    assert (view.patch_size, view.stride, view.in_channels) == ((8, 4), (8, 4), 3)
    assert (view.hidden_size, view.spatial_dims) == (48, 2)
    assert view.grid((32, 24)) == (4, 6)


def test_image_that_no_patch_divides_is_refused():
    with pytest.raises(ValueError, match=r"multiple of \(8, 8, 8\), got \(32, 32, 30\)"):
        encoder_view(vit()).embed(torch.zeros(1, 1, 32, 32, 30))


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match=r"expected images \(B, 1, and 3 spatial axes\), got \(1, 2, 32, 32, 32\)"):
        encoder_view(vit()).embed(torch.zeros(1, 2, 32, 32, 32))


def test_copied_view_looks_at_the_copied_network():
    view = encoder_view(vit())

    copied = copy.deepcopy(view)

    assert copied.network is not view.network
    assert copied.patch_embedding is copied.network.patch_embedding.patch_embeddings
