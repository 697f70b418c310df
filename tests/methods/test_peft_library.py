# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Methods of the peft package against the package used directly."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SegResNet, SwinUNETR, ViT
from safetensors import safe_open
from safetensors.torch import save_file

from monai_essa import adapt, disable_adapter, load_adapter, merge, save_adapter
from monai_essa.adapters.record import seal_record
from monai_essa.methods import BitFit, PeftLibrary
from monai_essa.methods.peft_library import PeftLayer

peft = pytest.importorskip("peft", reason="needs the peft package: pip install monai_essa[peft]")

NETWORKS = {
    "vit": (lambda: ViT(1, 32, 16, 24, 48, 2, 4, qkv_bias=True), (1, 1, 32, 32, 32), ["qkv", "linear1"]),
    "unetr": (lambda: UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), (1, 1, 32, 32), ["qkv", "linear1"]),
    "swin": (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2), (1, 1, 64, 64), ["qkv", "linear1"]),
    "segresnet": (
        lambda: SegResNet(3, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
        (1, 1, 16, 16, 16),
        ["down_layers.0.1.conv1.conv", "down_layers.1.1.conv2.conv"],
    ),
}
CONFIGS = {
    "lora": lambda targets: peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets),
    "dora": lambda targets: peft.LoraConfig(r=2, lora_alpha=4, use_dora=True, target_modules=targets),
    "ia3": lambda targets: peft.IA3Config(target_modules=targets, feedforward_modules=targets[1:]),
}
PREFIX = {"unetr": "vit.", "swin": "swinViT."}
# UNETR builds twelve blocks; one config shows the way into its encoder.
every_pair = pytest.mark.parametrize(
    ("config", "network"),
    [(c, n) for n in NETWORKS for c in CONFIGS if (c, n) not in (("dora", "unetr"), ("ia3", "unetr"))],
)


def built(network: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape, _ = NETWORKS[network]
    return make().eval(), torch.rand(shape)


def run(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    output = net(images)
    return output[0] if isinstance(output, tuple) else output


def moved(net: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@every_pair
def test_a_config_of_peft_is_a_method_like_any_other(config, network, tmp_path):
    """Outputs and gradients are those of peft used directly; base, file, disabling and merging are as everywhere."""
    ours, images = built(network)
    theirs, fresh, plain = (copy.deepcopy(ours) for _ in range(3))
    base, names = run(ours, images), {name for name, _ in ours.named_parameters()}
    adapt(ours, PeftLibrary(CONFIGS[config](NETWORKS[network][2])))
    assert torch.equal(run(ours, images), base)
    trains_what_peft_adds_in_the_encoder(ours, names, PREFIX.get(network, ""))
    moved(ours)
    peft.inject_adapter_in_model(
        CONFIGS[config](NETWORKS[network][2]), theirs.get_submodule(PREFIX.get(network, "").rstrip("."))
    )
    expected = outputs_and_gradients_equal(ours, theirs, images)
    assert not torch.allclose(expected, base, atol=1e-3)
    with disable_adapter(ours):
        assert torch.equal(run(ours, images), base)
    assert torch.equal(run(load_adapter(fresh, save_adapter(ours, tmp_path / "a.safetensors")), images), expected)
    merged = merge(ours)
    torch.testing.assert_close(run(merged, images), expected, rtol=1e-4, atol=1e-4)
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]
    assert list(merged.state_dict()) == list(plain.state_dict())


def trains_what_peft_adds_in_the_encoder(net: nn.Module, before: set[str], prefix: str) -> None:
    learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    added = {name for name, _ in net.named_parameters()} - before
    assert learning == added and all(name.startswith(prefix) for name in added)


def outputs_and_gradients_equal(ours: nn.Module, theirs: nn.Module, images: torch.Tensor) -> torch.Tensor:
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in theirs.state_dict(keep_vars=True).items()}
    assert plain.keys() == ours.state_dict().keys()
    learned = {name: parameter for name, parameter in ours.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in learned.items():
            plain[name].copy_(parameter)
    ours_out, theirs_out = run(ours, images), run(theirs, images)
    assert torch.equal(ours_out, theirs_out)
    ours_out.square().mean().backward()
    theirs_out.square().mean().backward()
    for name, parameter in learned.items():
        assert torch.equal(parameter.grad, plain[name].grad), name
    return ours_out.detach()


def test_plain_state_loads_before_and_after():
    net, images = built("vit")
    state = {name: tensor + 0.01 for name, tensor in net.state_dict().items()}
    before = copy.deepcopy(net)
    before.load_state_dict(state)
    expected = run(before, images)
    for method in (PeftLibrary(CONFIGS[config](["qkv"])) for config in CONFIGS):
        late = adapt(built("vit")[0], method)
        assert not late.load_state_dict(state, strict=False).unexpected_keys
        assert torch.equal(run(late, images), expected)
        assert torch.equal(run(adapt(copy.deepcopy(before), method), images), expected)


def test_composes_with_a_method_on_other_tensors():
    net, images = built("vit")
    moved(adapt(net, [PeftLibrary(CONFIGS["dora"](["qkv"])), BitFit()]))
    assert net.blocks[0].attn.qkv.bias.requires_grad
    torch.testing.assert_close(run(merge(net), images), run(net, images), rtol=1e-5, atol=1e-5)


def test_two_configs_compose_unless_they_share_a_layer():
    net, _ = built("vit")
    methods = [PeftLibrary(CONFIGS["lora"](["qkv"])), PeftLibrary(CONFIGS["ia3"](["linear1"]))]
    with pytest.raises(ValueError, match=r"both claim 'blocks\.\d\.attn\.qkv\.weight'"):
        adapt(net, [methods[0], methods[0]])
    assert sum(isinstance(module, PeftLayer) for module in adapt(net, methods).modules()) == 4


@pytest.mark.parametrize("config", CONFIGS)
def test_config_is_kept_as_plain_values(config):
    made = CONFIGS[config](["qkv", "linear1"])
    method = PeftLibrary(made)
    again = PeftLibrary(**json.loads(json.dumps({"config": method.config})))
    assert again == method == PeftLibrary(made.to_dict()) == PeftLibrary(method.config | {"inference_mode": True})
    assert method.config["target_modules"] == ["linear1", "qkv"]  # peft keeps a set
    assert "revision" not in method.config and "peft_version" not in method.config


def test_short_mapping_is_the_same_method_as_the_config():
    values = {"peft_type": "LORA", "r": 4, "target_modules": ["qkv"]}
    assert PeftLibrary(values) == PeftLibrary(peft.LoraConfig(r=4, target_modules=["qkv"]))
    assert PeftLibrary(values).config == values


@pytest.mark.parametrize("initialisation", ["pissa", "olora"])
def test_initialisation_that_alters_pretrained_weights_is_refused(initialisation):
    net, _ = built("vit")
    before = copy.deepcopy(net.state_dict())
    method = PeftLibrary(peft.LoraConfig(r=2, init_lora_weights=initialisation, target_modules=["qkv"]))
    with pytest.raises(ValueError, match="alters the pretrained weights of 'blocks.0.attn.qkv'"):
        adapt(net, method)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("net", "targets", "message"),
    [
        (ViT(1, 32, 16, 24, 48, 1, 4), ["to_q"], r"match 'blocks.0.attn.to_q' \(Identity\), no used layer"),
        (
            ViT(1, 32, 16, 24, 48, 1, 4),
            ["query"],
            "match no layer in the encoder of ViT; names there are .*attn.out_proj",
        ),
        (ViT(1, 32, 16, 24, 48, 1, 4), ["attn"], r"match 'blocks.0.attn' \(SABlock\)"),
        (ViT(1, 32, 16, 24, 48, 1, 4), ["norm_cross_attn"], "match 'blocks.0.norm_cross_attn'"),
        (
            MaskedAutoEncoderViT(1, 32, 8, 24, 48, 1, 4, 0.5, 24, 48, 1, 4, spatial_dims=2),
            ["qkv"],
            "match 'decoder_blocks.0.attn.qkv'.* no used layer of the encoder of MaskedAutoEncoderViT",
        ),
        (UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2), ["conv1.conv"], "match no layer in the encoder of UNETR"),
        (ViT(1, 32, 16, 24, 48, 1, 4), ["norm1"], r"peft cannot place .*Target module LayerNorm"),
    ],
)
def test_targets_that_do_not_fit_are_refused_in_one_line(net, targets, message):
    modules = list(net.modules())
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        adapt(net, PeftLibrary(peft.LoraConfig(target_modules=targets)))
    assert list(net.modules()) == modules


def test_decoder_blocks_may_be_left_out_by_the_config():
    net = MaskedAutoEncoderViT(1, 32, 8, 24, 48, 1, 4, 0.5, 24, 48, 1, 4, spatial_dims=2)
    method = PeftLibrary(peft.LoraConfig(target_modules=["qkv"], exclude_modules="decoder.*"))
    assert method.claims(net) == {"blocks.0.attn.qkv.weight"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 4}, "needs peft_type, such as 'LORA'"),
        ({"peft_type": "LARA", "target_modules": ["qkv"]}, "field 'peft_type': expected one of 'ADALORA'"),
        ({"peft_type": "LORA", "rank": 4, "target_modules": ["qkv"]}, "LORA config of peft: .* field 'rank'; expected"),
        ({"peft_type": "LORA"}, "LORA config without target_modules"),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}, "'peft_type': expected .*got 'PREFIX_TUNING'"),
        ({"peft_type": "ADALORA", "target_modules": ["qkv"]}, "peft .* refuses the config .*total_step"),
        ({"peft_type": "LORA", "target_modules": ["qkv"], "bias": "all"}, r"got bias='all'; add BitFit\(\)"),
        ({"peft_type": "LORA", "target_modules": ["qkv"], "modules_to_save": ["out"]}, "in also_train"),
        ("lora", "must be a config of peft or a mapping of its values, got 'lora'"),
    ],
)
def test_bad_config_is_refused_in_one_line(config, message):
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        PeftLibrary(config)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install "monai_essa\[peft\]"'):
        PeftLibrary({"peft_type": "LORA", "target_modules": ["qkv"]})


def test_an_adapter_file_imports_nothing_that_it_names(tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("import pathlib; pathlib.Path('marker').touch()", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    net, _ = built("vit")
    path = save_adapter(adapt(net, PeftLibrary(CONFIGS["lora"](["qkv"]))), tmp_path / "a.safetensors")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        record = json.loads(file.metadata()["monai_essa"])
    record["methods"][0]["values"]["config"] |= {"megatron_core": "planted", "megatron_config": {"a": 1}}
    sealed = seal_record(record, "a test")  # by somebody who can compute a checksum
    save_file(tensors, path, metadata={"monai_essa": json.dumps(sealed)})
    fresh, _ = built("vit")
    modules = list(fresh.modules())
    with pytest.raises(ValueError, match="field 'megatron_co"):
        load_adapter(fresh, path)
    assert "planted" not in sys.modules
    assert not (tmp_path / "marker").exists()
    assert list(fresh.modules()) == modules
