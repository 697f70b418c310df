# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Networks of a stage: order, starts and refusals."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.networks.nets import UNETR, ViT

from monai_essa import adapt, merge, save_adapter
from monai_essa.anatomy import classification_network, interpolate_positions, kept_grid
from monai_essa.engines import (
    StageOutputs,
    adapted_network,
    merged_network,
    pretext_network,
    supervised_network,
    trained_network,
)
from monai_essa.methods import APLA, FullTuning, HeadOnly, LoRA
from monai_essa.weights import FirstLayer

DECODER = [r"(encoder|decoder)\d+\..*", r"out\..*"]


def vit(seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    return ViT(1, 32, 16, 24, 48, 12, 4, spatial_dims=2)


def unetr(seed: int = 1) -> UNETR:
    torch.manual_seed(seed)
    return UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)


@pytest.fixture
def base_file(tmp_path):
    torch.save(vit().state_dict(), tmp_path / "vit.pt")
    return tmp_path / "vit.pt"


@pytest.mark.parametrize("method", [APLA(), LoRA(), [APLA(columns=2), LoRA()], HeadOnly()])
def test_a_frozen_random_encoder_is_refused(method):
    with pytest.raises(ValueError, match="no pretrained weights: .* would freeze random tensors; give pretrained=FILE"):
        pretext_network(vit(), method)


def test_full_tuning_pre_trains_from_nothing():
    assert pretext_network(vit(), FullTuning()).norm.weight.requires_grad


def test_weights_are_loaded_before_the_network_is_adapted(base_file):
    net = pretext_network(unetr(), APLA(columns=3), base_file)
    layer = net.vit.blocks[0].attn.out_proj
    expected = vit().blocks[0].attn.out_proj.weight[layer.columns]
    assert torch.equal(layer.rows, expected)


SMALL = {"hidden_size": 48, "mlp_dim": 96, "num_layers": 2, "num_heads": 4}


@pytest.mark.parametrize(
    "stage",
    [
        lambda net, file, size: pretext_network(net, APLA(), file, img_size=size),
        lambda net, file, size: supervised_network(
            classification_network(net, 2), "encoder", APLA(), ["(head|head_norm).*"], file, img_size=size
        ),
    ],
    ids=["pretext", "classification"],
)
def test_a_vit_of_another_shape_takes_positions_for_its_own(tmp_path, stage):
    """A ViT does not keep its img_size: only who built it can say that 3 x 4 x 3 patches are not a cube."""
    cubic = ViT(1, 64, 16, **SMALL)
    torch.save(cubic.state_dict(), tmp_path / "cubic.pt")
    with pytest.raises(ValueError, match="give target_grid"):
        stage(ViT(1, (48, 64, 48), 16, **SMALL), tmp_path / "cubic.pt", None)

    net = ViT(1, (48, 64, 48), 16, **SMALL)
    stage(net, tmp_path / "cubic.pt", (48, 64, 48))
    expected = interpolate_positions(cubic.patch_embedding.position_embeddings, (4, 4, 4), (3, 4, 3))
    assert torch.allclose(net.patch_embedding.position_embeddings, expected, atol=1e-6)


@pytest.mark.parametrize("handover", ["encoder", "network"])
def test_what_a_stage_hands_over_states_its_grid(tmp_path, handover):
    """36 positions in a plain file could be those of (3, 4, 3) or of (4, 3, 3)."""
    net = pretext_network(ViT(1, (48, 64, 48), 16, **SMALL), FullTuning(), img_size=(48, 64, 48))
    trainer = Engine(lambda engine, batch: None)
    StageOutputs(net, tmp_path, handover).attach(trainer)
    trainer.run([0], max_epochs=1)

    again = merged_network(ViT(1, (48, 64, 48), 16, **SMALL), tmp_path / "model.pt")
    assert torch.equal(again.patch_embedding.position_embeddings, net.patch_embedding.position_embeddings)
    assert kept_grid(again) == (3, 4, 3)

    turned = ViT(1, (64, 48, 48), 16, **SMALL)
    pretext_network(turned, APLA(), tmp_path / "model.pt", img_size=(64, 48, 48))
    expected = interpolate_positions(net.patch_embedding.position_embeddings, (3, 4, 3), (4, 3, 3))
    assert torch.allclose(turned.patch_embedding.position_embeddings, expected, atol=1e-6)


def test_a_file_that_does_not_state_its_grid_needs_its_img_size(tmp_path):
    source = ViT(1, (48, 64, 48), 16, **SMALL)
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(ValueError, match="give source_grid, in a bundle pretrained_img_size"):
        pretext_network(ViT(1, (48, 64, 48), 16, **SMALL), APLA(), tmp_path / "plain.pt", img_size=(48, 64, 48))
    net = ViT(1, (48, 64, 48), 16, **SMALL)
    sizes = {"img_size": (48, 64, 48), "pretrained_img_size": (48, 64, 48)}
    pretext_network(net, APLA(), tmp_path / "plain.pt", **sizes)
    assert torch.equal(net.patch_embedding.position_embeddings, source.patch_embedding.position_embeddings)


def test_an_img_size_that_the_network_was_not_built_for_is_refused():
    with pytest.raises(ValueError, match=r"which has 36 position embeddings, got \(4, 4, 4\)"):
        pretext_network(ViT(1, (48, 64, 48), 16, **SMALL), FullTuning(), img_size=(64, 64, 64))


def test_of_several_networks_in_a_file_the_prefix_says_which_one_starts(tmp_path):
    path, adapter = tmp_path / "both.pt", tmp_path / "adapter.safetensors"
    torch.save({"model": vit(0).state_dict(), "model_ema": vit(1).state_dict()}, path)
    with pytest.raises(ValueError, match=r"both.pt holds 2 networks .*in a bundle: pretrained_prefix"):
        pretext_network(vit(2), APLA(), path)
    expected = vit(1).norm.weight, vit(1).blocks[3].mlp.linear1.weight
    choice = {"pretrained_prefix": "model_ema"}
    stage = pretext_network(vit(2), APLA(columns=2), path, **choice)
    save_adapter(stage, adapter)
    networks = (
        stage,
        supervised_network(unetr(), "adapter", APLA(), DECODER, path, adapter, **choice).vit,
        adapted_network(unetr(), path, adapter, holds="encoder", **choice).vit,
    )
    for network in networks:
        assert torch.equal(network.norm.weight, expected[0])
        assert torch.equal(network.blocks[3].mlp.linear1.weight, expected[1])


def test_every_start_fits_the_first_layer_as_it_is_told(tmp_path):
    path, adapter, how = tmp_path / "rgb.pt", tmp_path / "adapter.safetensors", FirstLayer(channels="sum")
    colour = ViT(3, 32, 16, 24, 48, 12, 4, spatial_dims=2)
    torch.save(colour.state_dict(), path)
    stage = pretext_network(vit(), APLA(columns=2), path, first_layer=how)
    save_adapter(stage, adapter)
    networks = (
        stage,
        supervised_network(unetr(), "adapter", APLA(), DECODER, path, adapter, first_layer=how).vit,
        adapted_network(unetr(), path, adapter, holds="encoder", first_layer=how).vit,
    )
    expected = colour.patch_embedding.patch_embeddings.weight.sum(dim=1, keepdim=True)
    for network in networks:
        torch.testing.assert_close(network.patch_embedding.patch_embeddings.weight, expected)


def test_start_adapter_trains_the_files_methods_on(base_file, tmp_path):
    stage = adapt(vit(), APLA(columns=3, seed=7))
    with torch.no_grad():
        stage.blocks[2].attn.out_proj.rows.add_(1)
    adapter = save_adapter(stage, tmp_path / "adapter.safetensors")
    net = supervised_network(unetr(), "adapter", LoRA(), DECODER, base_file, adapter)
    assert torch.equal(net.vit.blocks[2].attn.out_proj.rows, stage.blocks[2].attn.out_proj.rows)
    assert net.vit.blocks[2].attn.out_proj.rows.requires_grad and net.out.conv.conv.weight.requires_grad
    assert torch.equal(merge(net).vit(torch.ones(1, 1, 32, 32))[0], stage(torch.ones(1, 1, 32, 32))[0])


def test_start_encoder_adapts_anew(base_file):
    net = supervised_network(unetr(), "encoder", LoRA(rank=2), DECODER, base_file)
    assert torch.equal(net.vit.blocks[5].mlp.linear1.weight, vit().blocks[5].mlp.linear1.weight)
    assert net.vit.blocks[5].attn.qkv.lora_A["q"].requires_grad


def test_start_random_trains_everything_that_lives():
    net = supervised_network(unetr(), "random", FullTuning(), DECODER)
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == {
        name for name, _ in net.named_parameters() if "norm_cross_attn" in name
    }


@pytest.mark.parametrize("also_train", [(), DECODER[:1], DECODER[1:]])
def test_a_decoder_or_head_that_stays_random_is_refused(base_file, also_train):
    with pytest.raises(ValueError, match="is neither loaded nor trained: it would stay random"):
        supervised_network(unetr(), "encoder", APLA(), also_train, base_file)


def test_a_loaded_decoder_may_stay_frozen(tmp_path):
    torch.save(unetr().state_dict(), tmp_path / "unetr.pt")
    net = supervised_network(unetr(2), "encoder", APLA(), (), tmp_path / "unetr.pt")
    assert not net.out.conv.conv.weight.requires_grad


@pytest.mark.parametrize(
    ("start", "files", "message"),
    [
        ("scratch", {}, "start must be one of random, encoder, adapter, got 'scratch'"),
        ("encoder", {}, "start 'encoder' needs pretrained=FILE"),
        ("adapter", {"pretrained": "vit.pt"}, "start 'adapter' needs adapter=FILE"),
    ],
)
def test_a_start_without_its_file_is_refused(start, files, message):
    with pytest.raises(ValueError, match=message):
        supervised_network(unetr(), start, APLA(), DECODER, **files)


def test_merged_network_takes_the_encoder_of_a_stage(base_file):
    net = merged_network(unetr(), base_file)
    assert torch.equal(net.vit.norm.weight, vit().norm.weight)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_merged_network_refuses_half_an_encoder(tmp_path):
    state = vit().state_dict()
    del state["blocks.11.mlp.linear1.weight"]
    torch.save(state, tmp_path / "half.pt")
    with pytest.raises(ValueError, match="half.pt"):
        merged_network(unetr(), tmp_path / "half.pt")


def test_trained_network_takes_a_whole_checkpoint_and_refuses_an_encoder(tmp_path, base_file):
    torch.save(unetr(5).state_dict(), tmp_path / "model.pt")
    assert torch.equal(
        trained_network(unetr(), tmp_path / "model.pt").out.conv.conv.weight, unetr(5).out.conv.conv.weight
    )
    with pytest.raises(ValueError, match="vit.pt lacks .* tensors of UNETR, first"):
        trained_network(unetr(), base_file)


def test_an_adapted_network_is_the_base_with_the_file_of_the_stage(tmp_path, base_file):
    stage = supervised_network(unetr(3), "encoder", LoRA(rank=2), DECODER, base_file)
    with torch.no_grad():
        stage.vit.blocks[1].attn.qkv.lora_B["q"].normal_()
    adapter = save_adapter(stage, tmp_path / "adapter.safetensors")
    again = adapted_network(unetr(4), base_file, adapter)
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(again.eval()(image), stage.eval()(image))


def test_an_adapter_without_the_decoder_makes_no_whole_network(tmp_path, base_file):
    adapter = save_adapter(pretext_network(vit(), LoRA(rank=2), base_file), tmp_path / "adapter.safetensors")
    adapted_network(unetr(), base_file, adapter, holds="encoder")
    with pytest.raises(ValueError, match="of the decoder is neither loaded nor trained: it would stay random"):
        adapted_network(unetr(), base_file, adapter)
    with pytest.raises(ValueError, match="holds must be one of encoder, network, got 'decoder'"):
        adapted_network(unetr(), base_file, adapter, holds="decoder")


def test_a_pretext_decoder_is_loaded_or_learns(tmp_path, base_file):
    pretext_network(unetr(), LoRA(), base_file)  # the decoder is not used
    pretext_network(unetr(), LoRA(), base_file, DECODER[:1], own_decoder=True)
    with pytest.raises(ValueError, match="of the decoder is neither loaded nor trained: it would stay random"):
        pretext_network(unetr(), LoRA(), base_file, own_decoder=True)
    torch.save(unetr(5).state_dict(), tmp_path / "unetr.pt")
    net = pretext_network(unetr(), LoRA(), tmp_path / "unetr.pt", own_decoder=True)
    assert not net.decoder5.transp_conv.conv.weight.requires_grad
