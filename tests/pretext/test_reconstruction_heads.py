# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch

from monai_essa.anatomy import encoder_view
from monai_essa.pretext import patchify
from monai_essa.pretext.simmim import FeatureMapHead, OwnDecoderHead, TokenHead

INDICES = torch.tensor([[3, 1], [0, 2]])


def test_token_head_reads_the_token_of_each_patch(build_network):
    view = encoder_view(build_network("vit_2d").eval())
    head, images = TokenHead(view), torch.randn(2, 2, 32, 32)

    tokens = view.encode(view.embed(images))

    expected = torch.stack([tokens[0, [3, 1]], tokens[1, [0, 2]]])
    assert torch.allclose(head(view, images, INDICES), head.predict(expected))


def test_feature_map_head_lays_a_cell_over_the_voxels_above_it(build_network):
    view = encoder_view(build_network("swin_2d").eval())
    head, images = FeatureMapHead(view, (16, 16)), torch.randn(2, 2, 64, 64)

    cells = head.predict(view.features(images)[-1].permute(0, 2, 3, 1))  # (B, 2, 2, 32 * 32 * 2)

    # Unit 3 of the 4 x 4 units lies in the upper right corner: the upper right quarter of cell (0, 1).
    corner = cells[0, 0, 1].reshape(32, 32, 2)[:16, 16:]
    assert torch.allclose(head(view, images, INDICES)[0, 0], corner.flatten())


@pytest.mark.parametrize("network", ["unetr_2d", "swin_2d", "swin_v2_2d"])
def test_decoder_head_stands_in_for_the_output_layer(build_network, network):
    encoder = build_network(network).eval()
    view = encoder_view(encoder)
    head, images = OwnDecoderHead(view, (16, 16)), torch.randn(2, view.in_channels, 64, 64)
    predicted = head(view, images, INDICES)

    encoder.out = head.predict

    patches = patchify(encoder(images), (16, 16))
    assert torch.allclose(predicted, torch.stack([patches[0, [3, 1]], patches[1, [0, 2]]]), atol=1e-6)


def test_decoder_head_leaves_no_hook_behind(build_network):
    view = encoder_view(build_network("unetr_2d"))

    OwnDecoderHead(view, (16, 16))(view, torch.randn(2, 2, 64, 64), INDICES)

    assert not view.network.out._forward_pre_hooks


@pytest.mark.parametrize("head", [TokenHead, lambda view: OwnDecoderHead(view, (16, 16, 16))])
def test_heads_do_not_hold_the_network(build_network, head):
    module = head(encoder_view(build_network("unetr")))

    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"predict"}


def test_network_without_a_decoder_is_refused(build_network):
    with pytest.raises(ValueError, match=r"decoder of its own \(.*SegResNet\), got ViT; use handover 'encoder'"):
        OwnDecoderHead(encoder_view(build_network("vit")), (8, 8, 8))


def test_unetr_decoder_takes_its_own_size_only(build_network):
    view = encoder_view(build_network("unetr_2d"))

    with pytest.raises(ValueError, match=r"img_size \(64, 64\) for the decoder of UNETR, got \(32, 64\)"):
        OwnDecoderHead(view, (16, 16))(view, torch.randn(1, 2, 32, 64), INDICES[:1])


def test_swin_decoder_needs_more_than_one_position(build_network):
    view = encoder_view(build_network("swin_2d"))

    with pytest.raises(ValueError, match=r"larger than the stride \(32, 32\) .*, got \(32, 32\); pad them to twice"):
        OwnDecoderHead(view, (16, 16))(view, torch.randn(2, 2, 32, 32), INDICES)
