# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import ViT

from monai_essa.pretext import MAE, MAEDecoder, PatchReconstruction

DECODER = MAEDecoder(hidden_size=24, depth=2, num_heads=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def literal_mae(objective: MAE, image: torch.Tensor, masked: list[int]) -> float:
    """Section 3 of the paper for one image (C, 32, 32) in patches of 8, step by step, with the objective's weights."""
    vit, decoder = objective.encoder, objective.decoder
    patches = [image[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] for i in range(4) for j in range(4)]
    embedding = vit.patch_embedding
    projection = embedding.patch_embeddings
    tokens = [torch.einsum("cij,dcij->d", patch, projection.weight) + projection.bias for patch in patches]
    visible = [n for n in range(16) if n not in masked]
    hidden = torch.stack([tokens[n] + embedding.position_embeddings[0, n] for n in visible])[None]
    class_token = getattr(vit, "cls_token", hidden[:, :0])  # (1, 1, D), or none
    hidden = torch.cat([class_token, hidden], dim=1)
    for block in vit.blocks:
        hidden = block(hidden)
    first, hidden = decoder.embed(vit.norm(hidden))[0].split([class_token.shape[1], len(visible)])

    # Mask tokens fill the empty places, then positions are added: the first half of them along the second axis.
    rows = []
    for n in range(16):
        place = divmod(n, 4)
        frequencies = [1 / 10000 ** (k / 6) for k in range(6)]
        angles = [torch.tensor([place[axis] * f for f in frequencies], dtype=torch.float64) for axis in (1, 0)]
        position = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)])
        rows.append((hidden[visible.index(n)] if n in visible else decoder.mask_token) + position)
    rows = torch.cat([first, torch.stack(rows)])[None]
    for block in decoder.blocks:
        rows = block(rows)
    predictions = decoder.predict(decoder.norm(rows))[0, len(first) :]

    errors = []
    for n in masked:
        target = torch.stack([patches[n][c, i, j] for i in range(8) for j in range(8) for c in range(len(image))])
        target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
        errors.append(((predictions[n] - target) ** 2).mean())
    return float(sum(errors) / len(errors))


@pytest.mark.parametrize("classification", [False, True])
def test_loss_is_the_literal_transcription_of_the_paper(classification):
    network = ViT(2, 32, 8, 48, 64, 2, 4, spatial_dims=2, classification=classification)
    if classification:
        nn.init.normal_(network.cls_token)
    objective = MAE(network, decoder=DECODER).double()
    images = torch.randn(2, 2, 32, 32, dtype=torch.float64)

    with torch.no_grad():
        loss = float(objective(images, generator=seeded())["loss"])
        masked = objective.predict(images, seeded()).indices.tolist()
        expected = [literal_mae(objective, image, rows) for image, rows in zip(images, masked, strict=True)]

    # MONAI's positions are fp32.
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-6)


@pytest.mark.parametrize(("network", "visible"), [("vit", 16), ("vit_class_token", 3), ("unetr", 2), ("vit_2d", 4)])
def test_encoder_sees_visible_tokens_only(build_network, network, visible):
    encoder = build_network(network)
    counts = []
    for module in encoder.modules():
        if type(module).__name__ == "TransformerBlock":
            module.register_forward_hook(lambda _module, inputs, _output: counts.append(inputs[0].shape[1]))
    channels = 2 if network == "vit_2d" else 1
    objective = MAE(encoder, decoder=DECODER)
    for block in objective.decoder.blocks:
        block.register_forward_hook(lambda _module, inputs, _output: counts.append(-inputs[0].shape[1]))

    objective(torch.randn(1, channels, *[32] * (2 if network == "vit_2d" else 3)), generator=seeded())

    tokens = {"vit": 64, "vit_2d": 16}.get(network, 8)
    assert set(counts) == {visible, -tokens - (network == "vit_class_token")}


def test_default_masks_three_quarters_and_compares_normalised_patches(build_network):
    objective = MAE(build_network("vit"))

    assert objective.predict(torch.randn(2, 1, 32, 32, 32), seeded()).indices.shape == (2, 48)
    assert objective.loss == PatchReconstruction("l2", normalised=True)


def test_mask_unit_masks_blocks_of_patches(build_network):
    objective = MAE(build_network("vit"), mask_unit=16, mask_ratio=0.5, decoder=DECODER)

    mask = objective.reconstruct(torch.randn(1, 1, 32, 32, 32), seeded())["mask"]

    units = mask.unfold(2, 16, 16).unfold(3, 16, 16).unfold(4, 16, 16).flatten(5)
    assert torch.equal(units.amin(-1), units.amax(-1))
    assert units[..., 0].sum() == 4


def test_crops_of_other_sizes_go_through(build_network):
    objective = MAE(build_network("unetr"), decoder=DECODER)

    assert objective.predict(torch.randn(1, 1, 48, 16, 64), seeded()).patches.shape == (1, 9, 16**3)


def test_swin_is_told_to_use_simmim(build_network):
    with pytest.raises(ValueError, match="got SwinUNETR, whose windows need all of them; use SimMIM"):
        MAE(build_network("swin_2d"))


def test_single_token_crop_is_refused(build_network):
    with pytest.raises(ValueError, match="use larger crops or smaller patches"):
        MAE(build_network("unetr"), decoder=DECODER)(torch.randn(1, 1, 16, 16, 16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 1.0}, "mask ratio between 0 and 1"),
        ({"mask_unit": 12}, "multiple of the patch size"),
        ({"decoder": MAEDecoder(hidden_size=64, num_heads=2)}, "multiple of 6 for 3-D"),
    ],
)
def test_wrong_settings_are_refused_at_once(build_network, settings, message):
    with pytest.raises(ValueError, match=message):
        MAE(build_network("vit"), **settings)


def test_container_around_the_network_is_refused(build_network):
    with pytest.raises(TypeError, match="got Sequential; pass the network itself"):
        MAE(nn.Sequential(build_network("vit")))
