# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Made files of each family into MONAI's networks: equal outputs, every tensor accounted for, the rest refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import SegResNet, SegResNetDS, SwinUNETR, ViT

from monai_essa import load_weights
from monai_essa.weights import FirstLayer, WeightReport
from tests.weights.fabricated import dinov2_hf_file, swin_file, vit_file, vit_tokens, wrapped

Build = Callable[..., nn.Module]
Write = Callable[..., Path]
KINDS = ("matched", "renamed", "inflated", "interpolated", "rearranged", "folded", "skipped")


def vit(**changes: Any) -> ViT:
    arguments = {"in_channels": 3, "img_size": (16, 16), "patch_size": 4, "hidden_size": 24, "mlp_dim": 48}
    arguments |= {"num_layers": 2, "num_heads": 4, "spatial_dims": 2, "qkv_bias": True}
    return ViT(**arguments | changes).double().eval()


def counts(report: WeightReport, file: dict[str, Any]) -> dict[str, int]:
    """Count the lists of a report, once each tensor of the file is found in exactly one of them."""
    sources = [entry.source for kind in KINDS for entry in getattr(report, kind)]
    assert sorted(sources) == sorted(file)
    assert all(entry.reason for kind in KINDS[1:] for entry in getattr(report, kind))
    return {kind: n for kind in (*KINDS, "missing") if (n := len(getattr(report, kind)))}


@pytest.mark.parametrize("scale", [False, True], ids=["MAE", "DINOv2"])
def test_a_2d_vit_gives_the_tokens_of_its_authors_network(scale: bool, write: Write) -> None:
    state, network, images = vit_file(scale=scale), vit(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    file = state | {"mask_token": state["cls_token"], "head.weight": torch.ones(5, 24)}
    report = load_weights(network, write(file))
    with torch.no_grad():
        torch.testing.assert_close(network(images)[0], vit_tokens(state, images, 4, class_token=False))
    expected = {"renamed": 14, "matched": 14, "rearranged": 1, "skipped": 3} | ({"folded": 4} if scale else {})
    assert counts(report, file) == expected
    assert report.key_map == "vit" and report.encoder_share == 1 and not report.missing


def test_a_class_token_takes_its_position_along(write: Write) -> None:
    state, network = vit_file(scale=True), vit(classification=True, post_activation="none")
    report = load_weights(network, write(state))
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    network.classification_head = nn.Identity()
    with torch.no_grad():
        tokens = vit_tokens(state, images, 4, class_token=True)
        torch.testing.assert_close(network(images)[0], tokens[:, 0])
    reasons = {entry.name: entry.reason for entry in report.rearranged}
    assert "with its position added" in reasons["cls_token"]
    assert "without the row of the class token" in reasons["patch_embedding.position_embeddings"]


def test_positions_without_a_class_row_are_told_by_their_number(write: Write) -> None:
    state, network = vit_file(class_position=False), vit(classification=True)
    report = load_weights(network, write(state))
    assert torch.equal(network.cls_token, state["cls_token"]) and not report.rearranged


def test_an_oblong_grid_with_a_class_row_needs_the_grid(write: Write) -> None:
    state, network = vit_file(grid=(2, 5)), vit(img_size=(8, 20))
    with pytest.raises(ValueError, match="its 11 positions are.*give source_grid"):
        load_weights(network, write(state))
    load_weights(network, write(state), source_grid=(2, 5))
    assert torch.equal(network.patch_embedding.position_embeddings, state["pos_embed"][:, 1:])


@pytest.mark.parametrize("inflation", ["average", "centre"])
def test_a_volume_that_is_constant_along_depth_has_the_tokens_of_its_slice(inflation: str, write: Write) -> None:
    state, network = vit_file(scale=True), vit(spatial_dims=3, img_size=(16, 16, 4))
    how = FirstLayer(inflation=inflation)
    report = load_weights(network, write(state), target_grid=(4, 4, 1), first_layer=how)
    slices = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        tokens, _ = network(slices.unsqueeze(-1).expand(-1, -1, -1, -1, 4))
        torch.testing.assert_close(tokens, vit_tokens(state, slices, 4, class_token=False))
    (entry,) = report.inflated
    assert ("each slice divided by 4" if inflation == "average" else "slice 2 alone") in entry.reason


def test_positions_are_repeated_over_depth(write: Write) -> None:
    state, network = vit_file(), vit(spatial_dims=3, img_size=(16, 16, 12))
    load_weights(network, write(state), target_grid=(4, 4, 3))
    table = network.patch_embedding.position_embeddings.reshape(16, 3, 24)
    assert torch.equal(table, state["pos_embed"][0, 1:].unsqueeze(1).expand(16, 3, 24))


@pytest.mark.parametrize("channels", ["mean", "sum"])
def test_a_grey_image_is_the_mean_or_the_sum_of_three_channels(channels: str, write: Write) -> None:
    state, network = vit_file(), vit(in_channels=1)
    report = load_weights(network, write(state), first_layer=FirstLayer(channels=channels))
    grey = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    copied = grey.expand(1, 3, 16, 16) / (3 if channels == "mean" else 1)
    with torch.no_grad():
        torch.testing.assert_close(network(grey)[0], vit_tokens(state, copied, 4, class_token=False))
    assert report.inflated[0].reason == f"3 input channels -> 1 by their {channels}"


def test_another_patch_size_is_refused_and_resized_where_it_is_asked_for(write: Write) -> None:
    state, network = vit_file(patch=4), vit(patch_size=8, img_size=(32, 32))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"patch_size is 4 in the file and 8.*FirstLayer\(patches='resize'\) resizes"):
        load_weights(network, write(state))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    report = load_weights(network, write(state), first_layer=FirstLayer(patches="resize"))
    assert report.inflated[0].reason == "patches (4, 4) -> (8, 8) by pseudo-inverse resize"
    patches = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    larger = torch.nn.functional.interpolate(patches, size=(8, 8), mode="bilinear", align_corners=False)
    ours = network.patch_embedding.patch_embeddings
    theirs = torch.nn.functional.conv2d(patches, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"])
    with torch.no_grad():
        torch.testing.assert_close(ours(larger), theirs)


def test_queries_keys_and_values_apart_are_joined(write: Write) -> None:
    state, network = vit_file(scale=True), vit()
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    file = dinov2_hf_file(state)
    report = load_weights(network, write(file))
    with torch.no_grad():
        torch.testing.assert_close(network(images)[0], vit_tokens(state, images, 4, class_token=False))
    assert report.key_map == "dinov2_hf"
    assert counts(report, file)["folded"] == 2 * 2 * 2 + 4  # keys and values of two blocks, four scales
    assert {entry.reason for entry in report.rearranged} == {
        "joined from 3 tensors of the file", "without the row of the class token"
    }  # fmt: skip


def test_a_lost_part_is_no_whole(write: Write) -> None:
    file = dinov2_hf_file(vit_file())
    del file["encoder.layer.1.attention.attention.value.weight"]
    with pytest.raises(ValueError, match="only in the file: 'encoder.layer.1.attention.attention.key.weight'"):
        load_weights(vit(), write(file))


def test_blocks_in_chunks_are_numbered_throughout(write: Write) -> None:
    state = vit_file(dims=3, depth=4, channels=1, grid=(2, 2, 2), scale=True, chunk=2)
    network = vit(spatial_dims=3, in_channels=1, img_size=(8, 8, 8), num_layers=4)
    plain = {name: state[name] for name in state if not name.startswith("blocks.")} | {
        f"blocks.{name.split('.', 2)[2]}": tensor for name, tensor in state.items() if name.startswith("blocks.")
    }
    report = load_weights(network, write(wrapped(state, "teacher", "backbone.")))
    images = torch.randn(1, 1, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[0], vit_tokens(plain, images, 4, class_token=False))
    assert report.prefix == "teacher.backbone."


@pytest.mark.parametrize(
    ("extra", "cause"),
    [
        ({"register_tokens": (1, 4, 24)}, "the file has register tokens, for which a MONAI ViT has no place"),
        ({"reg_token": (1, 4, 24)}, "the file has register tokens"),
        ({"blocks.0.mlp.w12.weight": (96, 24)}, "its MLPs are SwiGLU"),
        ({"blocks.0.attn.rel_pos_h": (7, 6)}, "adds relative positions within windows, as SAM's does"),
        ({"rope_embed.periods": (6,)}, "its positions are rotary"),
        ({"blocks.0.attn.q_norm.weight": (6,)}, "normalises queries and keys"),
    ],
)
def test_what_no_vit_of_monai_has_is_refused_with_the_cause(
    extra: dict[str, tuple[int, ...]], cause: str, write: Write
) -> None:
    network = vit()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    path = write(vit_file() | {name: torch.ones(shape) for name, shape in extra.items()})
    with pytest.raises(ValueError, match=cause) as caught:
        load_weights(network, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_sams_encoder_is_refused_with_the_cause(write: Write) -> None:
    state = vit_file(class_position=False)
    state["pos_embed"] = state["pos_embed"].reshape(1, 4, 4, 24)  # SAM keeps its positions as an image
    del state["cls_token"]
    state |= {f"blocks.{i}.attn.rel_pos_{axis}": torch.ones(7, 6) for i in (0, 1) for axis in "hw"}
    path = write(wrapped(state | {"neck.0.weight": torch.ones(8, 24, 1, 1)}, "image_encoder."))
    with pytest.raises(ValueError, match=r"is not that of this ViT: its attention adds relative positions"):
        load_weights(vit(), path)


@pytest.mark.parametrize(
    ("file", "network", "cause"),
    [
        ({"width": 36}, {}, "hidden_size is 36 in the file and 24"),
        ({"depth": 3}, {}, "number of blocks is 3 in the file and 2"),
        ({"mlp": 96}, {}, "mlp_dim is 96 in the file and 48"),
        ({"channels": 4}, {}, "in_channels is 4 in the file and 3"),
        ({}, {"qkv_bias": False}, "only the file was built with qkv_bias=True"),
        ({"dims": 3, "grid": (2, 2, 2)}, {}, "spatial_dims is 3 in the file and 2"),
    ],
)
def test_another_vit_is_refused_with_the_cause(
    file: dict[str, Any], network: dict[str, Any], cause: str, write: Write
) -> None:
    with pytest.raises(ValueError, match=cause):
        load_weights(vit(**network), write(vit_file(**file)))


def test_another_epsilon_is_said(write: Write) -> None:
    report = load_weights(vit(), write(vit_file()))
    assert [note for note in report.notes if "epsilon 1e-06 in files of this family, 1e-05 in the network" in note]


def test_the_swin_file_gives_what_monais_own_loader_gives(tmp_path: Path) -> None:
    """MONAI's ``load_from`` is right for this file; ours leaves no tensor of the encoder at its random value."""
    file = swin_file(swin(), "ssl")
    torch.save(wrapped(file, "state_dict", ""), tmp_path / "model_swinvit.pt")
    ours, theirs = swin(), swin()
    theirs.load_state_dict(ours.state_dict())
    theirs.load_from({"state_dict": file})
    report = load_weights(ours, tmp_path / "model_swinvit.pt")
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    assert (report.family, report.key_map) == ("swin_unetr_ssl", "swin")
    assert len(report.renamed) == 8 * 4 and len(report.skipped) == 4 and report.encoder_share == 1


@pytest.mark.parametrize("grammar", ["dae", "founder"])
def test_other_spellings_of_the_swin_give_its_features(grammar: str, write: Write) -> None:
    source, network = swin(), swin()
    file = swin_file(source, grammar)
    report = load_weights(network, write(wrapped(file, "model", "") if grammar == "dae" else file))
    encoder, loaded = source.swinViT.state_dict(), network.swinViT.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in encoder.items())
    assert report.encoder_share == 1
    assert {entry.name.partition(".")[0] for entry in report.missing} == {
        *(f"encoder{i}" for i in (1, 2, 3, 4, 10)), *(f"decoder{i}" for i in range(1, 6)), "out"
    }  # fmt: skip


@pytest.mark.parametrize("spelling", ["swinViT.", "swin_vit."])
def test_a_whole_second_version_loads_encoder_and_decoder(spelling: str, write: Write) -> None:
    source, network = swin(use_v2=True, out_channels=3), swin(use_v2=True)
    state = {name.replace("swinViT.", spelling): tensor for name, tensor in source.state_dict().items()}
    report = load_weights(network, write(wrapped(state, "state_dict", "module.backbone.")))
    assert {entry.name for entry in report.missing} == {"out.conv.conv.weight", "out.conv.conv.bias"}
    name = "swinViT.layers3c.0.layer.conv2.conv.weight"
    assert torch.equal(network.state_dict()[name], source.state_dict()[name])


@pytest.mark.parametrize("file_is_second", [True, False])
def test_the_version_of_the_swin_is_the_cause(file_is_second: bool, write: Write) -> None:
    path = write(swin(use_v2=file_is_second).state_dict())
    side = "file" if file_is_second else "network"
    with pytest.raises(ValueError, match=rf"only the {side} was built with use_v2=True"):
        load_weights(swin(use_v2=not file_is_second), path)


def swin(**changes: Any) -> SwinUNETR:
    arguments = {"in_channels": 1, "out_channels": 2, "feature_size": 12, "window_size": 3}
    return SwinUNETR(**arguments | {"num_heads": (1, 2, 2, 2)} | changes)


def test_supervised_weights_of_a_segresnet_leave_their_head(write: Write) -> None:
    sizes: dict[str, Any] = {"init_filters": 8, "blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1)}
    source, network = SegResNet(out_channels=25, **sizes), SegResNet(out_channels=2, **sizes)
    report = load_weights(network, write(wrapped(source.state_dict(), "net", "module.")))
    assert len(report.matched) + len(report.skipped) == len(source.state_dict()) == 83
    assert {entry.name for entry in report.missing} == {"conv_final.2.conv.weight", "conv_final.2.conv.bias"}


@pytest.mark.parametrize("prefix", ["", "encoder.", "image_encoder.encoder."])
def test_a_bare_encoder_gives_a_segresnet_ds_its_features(prefix: str, write: Write) -> None:
    sizes: dict[str, Any] = {"init_filters": 8, "blocks_down": (1, 1), "norm": "instance"}
    source, network = SegResNetDS(**sizes), SegResNetDS(**sizes)
    beside = {"point_head.mlp.weight": torch.ones(2)} if prefix.startswith("image") else {}
    file = {f"{prefix}{name}": tensor for name, tensor in source.encoder.state_dict().items()} | beside
    report = load_weights(network, write(file))
    assert all(torch.equal(t, network.encoder.state_dict()[n]) for n, t in source.encoder.state_dict().items())
    assert {entry.source for entry in report.skipped} == beside.keys()
