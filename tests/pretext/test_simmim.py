# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import ViT

from monai_essa.anatomy import encoder_view, keep_grid
from monai_essa.pretext import PatchReconstruction, SimMIM, expand_mask, patchify, random_mask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("network", ["vit_2d", "swin_2d", "swin_v2_2d"])
def test_mask_token_replaces_the_embedding_of_masked_patches(build_network, network):
    encoder = build_network(network)
    if network == "vit_2d":
        keep_grid(encoder, (4, 4))
    view = encoder_view(encoder)
    objective = SimMIM(encoder, mask_unit=16)
    images = torch.randn(2, view.in_channels, 64, 64)
    entered = []
    first = encoder.blocks[0] if network == "vit_2d" else encoder.swinViT.pos_drop
    first.register_forward_pre_hook(lambda _module, inputs: entered.append(inputs[0]))

    objective.predict(images, seeded())

    embedded = entered[0] - view.embed(torch.zeros_like(images)) if network == "vit_2d" else entered[0]
    grid = view.grid((64, 64))
    mask = expand_mask(random_mask(2, (4, 4), 0.6, seeded()), [size // 4 for size in grid])
    if network == "vit_2d":
        token = objective.mask_token - encoder.patch_embedding.patch_embeddings.bias
        rows = embedded.unflatten(1, grid)
    else:
        token, rows = objective.mask_token, embedded.permute(0, 2, 3, 1)
    assert torch.allclose(rows[mask], token.expand_as(rows[mask]), atol=1e-6)
    assert (rows[~mask] - token).abs().amax(-1).min() > 1e-3


def test_visible_patches_are_embedded_as_they_are(build_network):
    encoder = build_network("vit_perceptron")
    objective = SimMIM(encoder)
    images = torch.randn(2, 2, 32, 32, 32)
    entered = []
    encoder.blocks[0].register_forward_pre_hook(lambda _module, inputs: entered.append(inputs[0]))

    objective.predict(images, seeded())

    visible = ~random_mask(2, (2, 2, 2), 0.6, seeded()).flatten(1)
    assert torch.allclose(entered[0][visible], encoder.patch_embedding(images)[visible], atol=1e-6)


def test_loss_is_the_mean_absolute_error_of_masked_voxels(build_network):
    objective = SimMIM(build_network("vit"))
    images = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        shown = objective.reconstruct(images, seeded())

        loss = objective(images, generator=seeded())["loss"]

    error = (shown["prediction"] - images).abs()[shown["mask"].bool()]
    assert torch.allclose(loss, error.mean(), rtol=1e-5)
    # 5 of 8 units, 0.6 * 8 rounded up, of 16 voxels: the patches of 8 voxels are masked in eights.
    assert shown["mask"].sum() == 2 * 5 * 16**3


def test_prediction_is_drawn_where_it_was_made(build_network):
    objective = SimMIM(build_network("swin_2d"))
    images = torch.randn(2, 2, 64, 64)

    shown, predicted = objective.reconstruct(images, seeded()), objective.predict(images, seeded())

    drawn = patchify(shown["prediction"], (16, 16))
    expected = torch.stack([rows[chosen] for rows, chosen in zip(drawn, predicted.indices, strict=True)])
    assert torch.equal(expected, predicted.patches)


@pytest.mark.parametrize(("patch", "unit"), [(8, 16), (16, 16), (2, 16), (12, 24), (32, 32)])
def test_default_unit_is_16_voxels_or_the_next_multiple_of_the_patch(patch, unit):
    network = ViT(1, 4 * patch, patch, hidden_size=12, mlp_dim=12, num_layers=1, num_heads=2, spatial_dims=2)

    assert SimMIM(network).mask_unit == (unit, unit)


def test_default_loss_is_l1(build_network):
    assert SimMIM(build_network("vit")).loss == PatchReconstruction("l1")


def test_crops_of_other_sizes_go_through(build_network):
    objective = SimMIM(build_network("unetr"))

    assert objective.predict(torch.randn(1, 1, 48, 16, 64), seeded()).patches.shape == (1, 8, 16**3)


def test_image_that_no_unit_divides_is_refused(build_network):
    with pytest.raises(ValueError, match=r"multiple of \(16, 16, 16\), got \(32, 32, 40\)"):
        SimMIM(build_network("vit"))(torch.zeros(1, 1, 32, 32, 40))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 0.0}, "mask ratio between 0 and 1"),
        ({"mask_unit": 12}, "multiple of the patch size"),
        ({"handover": "decoder"}, "'encoder' or 'encoder\\+decoder', got 'decoder'"),
        ({"handover": "encoder+decoder"}, "got ViT; use handover 'encoder'"),
    ],
)
def test_wrong_settings_are_refused_at_once(build_network, settings, message):
    with pytest.raises(ValueError, match=message):
        SimMIM(build_network("vit"), **settings)


def test_no_hook_is_left_behind_even_by_an_error(build_network):
    objective = SimMIM(build_network("unetr_2d"), handover="encoder+decoder")

    with pytest.raises(ValueError, match="img_size"):
        objective(torch.zeros(1, 2, 32, 32))

    assert not objective.encoder.vit.patch_embedding.patch_embeddings._forward_hooks
