# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Loading whole files into whole networks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import SegResNet, SegResNetDS, UNet, ViTAutoEnc
from safetensors.torch import save_file

from monai_essa import load_weights
from monai_essa.anatomy import interpolate_positions, keep_grid, kept_grid, state_with_grid
from monai_essa.anatomy.key_maps import MONAI
from monai_essa.weights import KeyMap

Build = Callable[..., nn.Module]
Write = Callable[..., Path]

TIMM = KeyMap(
    "timm",
    renames=(
        (r"^patch_embed\.proj\.", "patch_embedding.patch_embeddings."),
        (r"^pos_embed$", "patch_embedding.position_embeddings"),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc([12])\.", r".mlp.linear\1."),
    ),
    ignored=((r"cls_token|head\..*", "classification"),),
    folds=(
        (r"blocks\.(\d+)\.ls1\.gamma", r"blocks.\1.attn.out_proj"),
        (r"blocks\.(\d+)\.ls2\.gamma", r"blocks.\1.mlp.linear2"),
    ),
)
SWIN = KeyMap("swin", renames=((r"\.mlp\.fc([12])\.", r".mlp.linear\1."),))


def assert_equal(loaded: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert loaded.keys() == expected.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("kind", ["vit", "mae", "unetr", "swin"])
def test_a_checkpoint_of_the_same_network_gives_the_same_network(kind: str, build: Build, write: Write) -> None:
    source, network = build(kind), build(kind)
    report = load_weights(network, write(source.state_dict()))
    assert_equal(network.state_dict(), source.state_dict())
    assert len(report.matched) == len(source.state_dict())
    assert report.encoder_share == 1
    assert not (report.renamed or report.inflated or report.interpolated or report.skipped or report.missing)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.encoder."])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "network", "net", "teacher"])
def test_wrappers_and_prefixes_are_stripped(wrapper: str, prefix: str, build: Build, write: Write) -> None:
    source, network = build("vit"), build("vit")
    path = write({wrapper: {prefix + name: tensor for name, tensor in source.state_dict().items()}, "epoch": 7})
    assert load_weights(network, path).prefix == f"{wrapper}.{prefix}"
    assert_equal(network.state_dict(), source.state_dict())


def test_safetensors_and_torch_files_give_the_same_network(tmp_path: Path, build: Build, write: Write) -> None:
    state = build("unetr").state_dict()
    save_file(state, tmp_path / "weights.safetensors", metadata={"preprocessing": '{"axcodes": "RAS"}'})
    networks = build("unetr"), build("unetr")
    reports = [load_weights(networks[0], write(state)), load_weights(networks[1], tmp_path / "weights.safetensors")]
    assert_equal(networks[0].state_dict(), networks[1].state_dict())
    assert set(reports[0].matched) == set(reports[1].matched)
    assert (reports[0].preprocessing, reports[1].preprocessing) == (None, {"axcodes": "RAS"})


def test_a_vit_gives_a_unetr_its_features(build: Build, write: Write) -> None:
    vit = build("vit", hidden_size=24, mlp_dim=48, num_layers=12).eval()
    unetr = build("unetr").eval()
    decoder = {name: tensor.clone() for name, tensor in unetr.state_dict().items() if not name.startswith("vit.")}
    report = load_weights(unetr, write(vit.state_dict()))

    images = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(unetr.vit(images)[0], vit(images)[0])
    assert {entry.name for entry in report.missing} == decoder.keys()
    assert_equal({name: unetr.state_dict()[name] for name in decoder}, decoder)


def test_a_unetr_gives_a_vit_its_encoder_and_keeps_its_decoder(build: Build, write: Write) -> None:
    unetr, vit = build("unetr"), build("vit", hidden_size=24, mlp_dim=48, num_layers=12)
    report = load_weights(vit, write(unetr.state_dict()))
    assert_equal(vit.state_dict(), unetr.vit.state_dict())
    assert report.prefix == "vit."
    assert all(entry.reason == "outside the prefix 'vit.'" for entry in report.skipped)


def test_a_vit_gives_an_autoencoder_its_encoder(build: Build, write: Write) -> None:
    vit = build("vit")
    network = ViTAutoEnc(1, 32, 16, deconv_chns=2, hidden_size=48, mlp_dim=96, num_layers=3, num_heads=4)
    report = load_weights(network, write(vit.state_dict()))
    assert_equal({name: network.state_dict()[name] for name in vit.state_dict()}, dict(vit.state_dict()))
    assert {entry.name.partition(".")[0] for entry in report.missing} == {"conv3d_transpose", "conv3d_transpose_1"}


@pytest.mark.parametrize("target", ["vit", "unetr"])
def test_a_masked_autoencoder_gives_every_tensor_of_its_encoder(target: str, build: Build, write: Write) -> None:
    depth, width = (12, {"hidden_size": 24, "mlp_dim": 48}) if target == "unetr" else (3, {})
    mae, network = build("mae", num_layers=depth, **width), build(target)
    report = load_weights(network, write(mae.state_dict()))

    encoder = network.vit if target == "unetr" else network
    source = mae.state_dict()
    final_norm = {"norm.weight": f"blocks.{depth}.weight", "norm.bias": f"blocks.{depth}.bias"}
    assert_equal(encoder.state_dict(), {name: source[final_norm.get(name, name)] for name in encoder.state_dict()})
    assert sorted(entry.source for entry in report.renamed) == sorted(final_norm.values())
    assert {entry.name for entry in report.skipped} == {
        name for name in source if name.startswith("decoder_") or name in ("cls_token", "mask_tokens")
    }
    assert report.encoder_share == 1


def test_a_vit_gives_a_masked_autoencoder_its_encoder(build: Build, write: Write) -> None:
    vit, mae = build("vit"), build("mae")
    load_weights(mae, write(vit.state_dict()))
    assert torch.equal(mae.blocks[3].weight, vit.norm.weight)
    assert torch.equal(mae.blocks[2].attn.qkv.weight, vit.blocks[2].attn.qkv.weight)


def test_a_swin_transformer_gives_a_swin_unetr_its_features(build: Build, write: Write) -> None:
    source, network = build("swin").eval(), build("swin", out_channels=5).eval()
    path = write({"state_dict": {f"module.{name}": tensor for name, tensor in source.swinViT.state_dict().items()}})
    report = load_weights(network, path)
    images = torch.randn(1, 1, 64, 64, 64)
    with torch.no_grad():
        pairs = zip(source.swinViT(images), network.swinViT(images), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not any(entry.name.startswith("swinViT.") for entry in report.missing)


@pytest.mark.parametrize("kind", ["unetr", "swin"])
def test_a_head_for_other_classes_is_skipped_and_said(kind: str, build: Build, write: Write) -> None:
    report = load_weights(build(kind, out_channels=5), write(build(kind).state_dict()))
    head = {"out.conv.conv.weight", "out.conv.conv.bias"}
    assert {entry.name for entry in report.skipped} == {entry.name for entry in report.missing} == head
    assert "(2,) in the file, (5,) in the network" in str(report)


def test_positions_are_interpolated_to_another_image_size(build: Build, write: Write) -> None:
    source, network = build("vit", hidden_size=24, mlp_dim=48, num_layers=12), build("unetr", img_size=(64, 32, 32))
    with torch.no_grad():
        # Constant along the first axis: stays so on any grid, and the other axes are as they were.
        plane = torch.randn(1, 2, 2, 24)
        source.patch_embedding.position_embeddings.copy_(plane.expand(2, 2, 2, 24).reshape(1, 8, 24))
    report = load_weights(network, write(source.state_dict()))
    (entry,) = report.interpolated
    assert entry.reason == "grid (2, 2, 2) (assumed) -> (4, 2, 2)"
    table = network.vit.patch_embedding.position_embeddings.reshape(4, 2, 2, 24)
    torch.testing.assert_close(table, plane.expand(4, 2, 2, 24))


def test_a_given_grid_is_not_assumed(build: Build, write: Write) -> None:
    path = write(build("vit", img_size=(64, 32, 16)).state_dict())
    report = load_weights(build("vit"), path, source_grid=(4, 2, 1), target_grid=(2, 2, 2))
    assert [entry.reason for entry in report.interpolated] == ["grid (4, 2, 1) -> (2, 2, 2)"]


def test_a_masked_autoencoder_takes_its_decoder_to_another_image_size(build: Build, write: Write) -> None:
    report = load_weights(build("mae", img_size=48), write(build("mae").state_dict()))
    assert {entry.name for entry in report.interpolated} == {
        "patch_embedding.position_embeddings",
        "decoder_pos_embedding",
    }


@pytest.mark.parametrize(("source", "target"), [(3, 1), (1, 4)])
def test_changed_channels_are_fitted_by_rule_and_said(source: int, target: int, build: Build, write: Write) -> None:
    file, network = build("unetr", in_channels=source), build("unetr", in_channels=target)
    report = load_weights(network, write(file.state_dict()))
    expected = file.vit.patch_embedding.patch_embeddings.weight.sum(1) / max(source, target)
    fitted = network.vit.patch_embedding.patch_embeddings.weight
    torch.testing.assert_close(fitted, expected.unsqueeze(1).expand_as(fitted))
    assert all("input channel" in entry.reason for entry in report.inflated)
    assert {entry.name.partition(".")[0] for entry in report.inflated} == {"vit", "encoder1"}


@pytest.mark.parametrize("file_has_bias", [True, False])
def test_a_lost_qkv_bias_is_refused_unless_it_is_accepted(
    file_has_bias: bool, build: Build, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(build("vit", qkv_bias=file_has_bias).state_dict())
    with pytest.raises(ValueError, match=r"was built with qkv_bias=True; only in the (file|network): 'blocks.0.attn"):
        load_weights(build("vit", qkv_bias=not file_has_bias), path)
    with caplog.at_level(logging.INFO):
        report = load_weights(build("vit", qkv_bias=not file_has_bias), path, accept=[r"blocks\.\d+\.attn\.qkv\.bias"])
    entries = report.skipped if file_has_bias else report.missing
    assert {entry.name for entry in entries} == {f"blocks.{i}.attn.qkv.bias" for i in range(3)}
    assert report.accepted == entries
    assert report.encoder_share < 1
    assert "accepted         3 tensors" in caplog.text


def test_device_dtype_and_requires_grad_of_the_network_stay(build: Build, write: Write) -> None:
    network = build("vit").to(torch.bfloat16).requires_grad_(False)
    source = build("vit")
    load_weights(network, write(source.state_dict()))
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in network.parameters())
    assert torch.equal(network.norm.weight, source.norm.weight.bfloat16())


@pytest.mark.gpu
def test_a_network_on_the_gpu_stays_there(build: Build, write: Write) -> None:
    source, network = build("vit"), build("vit").cuda()
    load_weights(network, write(source.state_dict()))
    assert_equal({name: tensor.cpu() for name, tensor in network.state_dict().items()}, dict(source.state_dict()))
    assert all(parameter.is_cuda for parameter in network.parameters())


def test_a_network_without_a_transformer_loads_its_own_checkpoint(write: Write) -> None:
    source, network = (SegResNet(init_filters=8, out_channels=2) for _ in range(2))
    assert load_weights(network, write(source.state_dict())).encoder_share == 1
    assert_equal(network.state_dict(), source.state_dict())


def test_a_public_family_needs_a_table_only(build: Build, write: Write) -> None:
    """A fabricated 2-D file with class token, LayerScale and RGB input, into a 3-D network with one channel."""
    image_vit, network = build("vit", spatial_dims=2, in_channels=3, qkv_bias=True), build("vit", qkv_bias=True)
    state = {name: tensor for name, tensor in image_vit.state_dict().items() if "cross_attn" not in name}
    spelled = {
        name.replace("patch_embedding.patch_embeddings", "patch_embed.proj")
        .replace("patch_embedding.position_embeddings", "pos_embed")
        .replace("out_proj", "proj")
        .replace("linear", "fc"): tensor
        for name, tensor in state.items()
    }
    scales = {f"blocks.{i}.{name}.gamma": torch.full((48,), 0.5 + i) for i in range(3) for name in ("ls1", "ls2")}
    path = write({"model": spelled | scales | {"cls_token": torch.ones(1, 1, 48), "head.weight": torch.ones(10, 48)}})

    report = load_weights(network, path, source=TIMM, target_grid=(2, 2, 2))
    assert report.encoder_share == 1
    assert report.missing == ()
    assert sorted(entry.name for entry in report.folded) == sorted(f"model.{name}" for name in scales)
    assert torch.equal(network.blocks[1].attn.out_proj.weight, 1.5 * image_vit.blocks[1].attn.out_proj.weight)
    assert torch.equal(network.blocks[2].mlp.linear2.bias, 2.5 * image_vit.blocks[2].mlp.linear2.bias)
    weight = image_vit.patch_embedding.patch_embeddings.weight.mean(1, keepdim=True)
    fitted = network.patch_embedding.patch_embeddings.weight
    torch.testing.assert_close(fitted.sum(-1), weight)
    positions = image_vit.patch_embedding.position_embeddings.reshape(2, 2, 1, 48).expand(2, 2, 2, 48)
    torch.testing.assert_close(network.patch_embedding.position_embeddings.reshape(2, 2, 2, 48), positions)


def test_the_published_swin_spelling_needs_a_table_only(build: Build, write: Write) -> None:
    source, network = build("swin"), build("swin")
    spelled = {f"module.{k.replace('linear', 'fc')}": v for k, v in source.swinViT.state_dict().items()}
    heads = {"module.norm.weight": torch.ones(192), "module.rotation_head.weight": torch.ones(4, 192)}
    report = load_weights(network, write({"state_dict": spelled | heads}), source=SWIN)
    assert_equal(network.swinViT.state_dict(), source.swinViT.state_dict())
    assert {entry.name for entry in report.skipped} == {f"state_dict.{key}" for key in heads}


def test_an_unknown_source_is_named(build: Build, write: Write) -> None:
    with pytest.raises(ValueError, match="source must be 'auto', a KeyMap, one of the .* 'monai', .* got 'time'"):
        load_weights(build("vit"), write(build("vit").state_dict()), source="time")


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (lambda channels: SegResNet(init_filters=8, in_channels=channels), "convInit.conv.weight"),
        (lambda channels: SegResNetDS(init_filters=8, in_channels=channels), "encoder.conv_init.weight"),
        (lambda channels: UNet(3, channels, 2, (4, 8), (2,)), "model.0.conv.weight"),
        (lambda channels: UNet(3, channels, 2, (4, 8), (2,), num_res_units=1), "model.0.residual.weight"),
    ],
    ids=["SegResNet", "SegResNetDS", "UNet", "residual UNet"],
)
@pytest.mark.parametrize(("source", "target"), [(4, 1), (1, 2)])
def test_a_cnn_takes_other_channels_by_rule(
    make: Callable[[int], nn.Module], first: str, source: int, target: int, write: Write
) -> None:
    file, network = make(source), make(target)
    report = load_weights(network, write(file.state_dict()))
    assert first in {entry.name for entry in report.inflated}
    assert report.encoder_share == 1 and not report.missing
    loaded = network.state_dict()[first]
    expected = file.state_dict()[first].sum(1, keepdim=True) / max(source, target)
    torch.testing.assert_close(loaded, expected.expand_as(loaded))


NETWORKS_IN_A_FILE = [
    ("model", "model_ema"),
    ("state_dict", "ema_state_dict"),
    ("best_model", "last_model"),
    ("student.backbone", "teacher.backbone"),
    ("online_encoder.module", "target_encoder.module"),
    ("folds.0", "folds.1"),
]


def nested(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefixes", NETWORKS_IN_A_FILE, ids=str)
def test_of_several_networks_one_has_to_be_named(prefixes: tuple[str, str], build: Build, write: Write) -> None:
    sources, network = [build("vit"), build("vit")], build("vit")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    states = [nested(prefix, source.state_dict()) for prefix, source in zip(prefixes, sources, strict=True)]
    path = write(states[0] | states[1])
    with pytest.raises(ValueError, match=rf"holds 2 networks that fit ViT.*'{prefixes[0]}\..*\(\d+ tensors\).*prefix="):
        load_weights(network, path)
    assert_equal(network.state_dict(), before)
    for prefix, source in zip(prefixes, sources, strict=True):
        assert load_weights(network, path, prefix=prefix).prefix == f"{prefix}."
        assert_equal(network.state_dict(), dict(source.state_dict()))


def test_networks_in_lists_are_seen(build: Build, write: Write) -> None:
    folds = [build("vit").state_dict() for _ in range(3)]
    network, path = build("vit"), write({"folds": folds})
    with pytest.raises(ValueError, match=r"holds 3 networks that fit ViT, under 'folds\.0\.'"):
        load_weights(network, path)
    load_weights(network, path, prefix="folds.2")
    assert_equal(network.state_dict(), dict(folds[2]))


def test_a_wrong_prefix_is_answered_by_those_that_fit(build: Build, write: Write) -> None:
    state = build("vit").state_dict()
    with pytest.raises(ValueError, match=r"weights.pt: prefix 'ema' holds no tensor of ViT; give 'model\.'"):
        load_weights(build("vit"), write({"model": state}), prefix="ema")


def test_tied_copies_are_one_network(build: Build, write: Write) -> None:
    unetr, network = build("unetr"), build("unetr")
    report = load_weights(network, write({"encoder": unetr.vit.state_dict(), "network": unetr.state_dict()}))
    assert report.prefix == "network."
    assert_equal(network.state_dict(), dict(unetr.state_dict()))


def test_a_network_beside_another_architecture_is_found(build: Build, write: Write) -> None:
    generator, network = build("vit"), build("vit")
    others = {"student": build("vit", num_layers=2).state_dict(), "discriminator": build("swin").state_dict()}
    wider = {"wider": build("vit", hidden_size=24, mlp_dim=48).state_dict()}
    load_weights(network, write({**wider, **others, "generator": generator.state_dict()}))
    assert_equal(network.state_dict(), dict(generator.state_dict()))


def test_what_an_optimizer_keeps_is_no_second_network(build: Build, write: Write) -> None:
    state, network = build("vit").state_dict(), build("vit")
    moments = {name: {"exp_avg": tensor * 0, "step": torch.tensor(3.0)} for name, tensor in state.items()}
    by_kind = {"exp_avg": {name: tensor * 2 for name, tensor in state.items()}}
    path = write({"model": state, "optimizer": {"state": moments, "by_kind": by_kind, "param_groups": [{"lr": 0.1}]}})
    assert load_weights(network, path).prefix == "model."
    assert_equal(network.state_dict(), dict(state))


@pytest.mark.parametrize("wrapped", ["vit._orig_mod.", "module.vit.module."])
def test_a_decoder_beside_a_wrapped_encoder_is_loaded(wrapped: str, build: Build, write: Write) -> None:
    source, network = build("unetr"), build("unetr")
    outer = "module." if wrapped.startswith("module.") else ""
    state = {
        name.replace("vit.", wrapped, 1) if name.startswith("vit.") else outer + name: tensor
        for name, tensor in source.state_dict().items()
    }
    report = load_weights(network, write(state))
    assert_equal(network.state_dict(), dict(source.state_dict()))
    assert len(report.matched) == len(state)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda net: nn.DataParallel(torch.compile(net))])
def test_a_wrapped_network_is_loaded(wrap: Callable[[nn.Module], nn.Module], build: Build, write: Write) -> None:
    source, network = build("vit"), build("vit")
    report = load_weights(wrap(network), write(source.state_dict()))
    assert_equal(network.state_dict(), dict(source.state_dict()))
    assert "norm.weight" in report.loaded


def test_the_grid_of_a_vit_is_kept_once_it_is_known(build: Build, write: Write) -> None:
    source = build("vit", img_size=(64, 32, 16))
    table = source.patch_embedding.position_embeddings
    network = build("vit", img_size=(64, 32, 16))
    with pytest.raises(ValueError, match="give source_grid"):
        load_weights(
            build("unetr", img_size=(64, 32, 16)), write(build("vit", hidden_size=24, mlp_dim=48).state_dict())
        )
    load_weights(network, write(source.state_dict()), source_grid=(4, 2, 1))
    assert kept_grid(network) == (4, 2, 1)
    assert torch.equal(network.patch_embedding.position_embeddings, table)

    turned = build("vit", img_size=(16, 32, 64))
    keep_grid(turned, (1, 2, 4))
    path = write({"net": state_with_grid(network, network.state_dict())})
    load_weights(turned, path)
    expected = interpolate_positions(table, (4, 2, 1), (1, 2, 4))
    torch.testing.assert_close(turned.patch_embedding.position_embeddings, expected)


@pytest.mark.parametrize("wrapper", ["", "state_dict"])
def test_a_file_that_states_its_grid_needs_no_argument(wrapper: str, build: Build, tmp_path: Path) -> None:
    source, network = (build("unetr", img_size=(64, 32, 16)) for _ in range(2))
    state = state_with_grid(source, source.state_dict())
    torch.save({wrapper: state} if wrapper else state, tmp_path / "model.pt")
    assert not load_weights(network, tmp_path / "model.pt").interpolated
    assert_equal(network.state_dict(), dict(source.state_dict()))
    network.load_state_dict(state)


def test_another_target_grid_than_the_networks_own_is_refused(build: Build, write: Write) -> None:
    path = write(build("vit", hidden_size=24, mlp_dim=48, num_layers=12).state_dict())
    with pytest.raises(ValueError, match=r"target_grid \(4, 2, 1\): this UNETR was built for \(2, 2, 2\)"):
        load_weights(build("unetr"), path, target_grid=(4, 2, 1))


def test_parts_that_stay_as_they_were_and_other_precision_are_noted(build: Build, write: Write) -> None:
    state = build("vit", hidden_size=24, mlp_dim=48, num_layers=12).half().state_dict()
    report = load_weights(build("unetr"), write(state))
    assert any(note.startswith("the decoder keeps the values that it had in ") for note in report.notes)
    assert "the head keeps the values that it had in 2 of 2 tensors" in report.notes
    assert f"{len(state)} tensors are float16 in the file and float32 in the network" in report.notes
    assert "note: the head keeps" in str(report)


def test_another_epsilon_is_noted_and_not_changed(build: Build, write: Write) -> None:
    network = build("vit")
    family = replace(MONAI, name="other", norm_eps=1e-6)
    report = load_weights(network, write(build("vit").state_dict()), source=family)
    assert [note for note in report.notes if "epsilon" in note] == [
        "layer norms: epsilon 1e-06 in files of this family, 1e-05 in the network, which was not changed"
    ]
    assert network.norm.eps == 1e-5
    assert not load_weights(network, write(build("vit").state_dict())).notes


def test_a_decoder_that_fits_in_parts_is_told_tensor_by_tensor(build: Build, write: Write) -> None:
    source, network = build("unetr", feature_size=8), build("unetr")
    report = load_weights(network, write(source.state_dict()))
    assert report.encoder_share == 1
    unfit = {entry.name for entry in report.missing}
    assert "decoder2.conv_block.conv1.conv.weight" in unfit and not unfit & report.loaded
    assert all("in the file" in entry.reason for entry in report.missing)


@pytest.mark.parametrize("grid", [True, 8, "222", (2, 2.5, 2), (0, 2, 2), (2,), [[2], [2], [2]]])
@pytest.mark.parametrize("name", ["source_grid", "target_grid"])
def test_a_grid_is_a_few_whole_numbers(name: str, grid: Any, build: Build, write: Write) -> None:
    with pytest.raises(ValueError, match=f"^{name}.*: expected a"):
        load_weights(build("vit"), write(build("vit").state_dict()), **{name: grid})
