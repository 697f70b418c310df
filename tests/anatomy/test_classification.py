# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Tests for classifiers: what they compute, and that weights and adapters move between a network and its classifier."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import (
    UNETR,
    DenseNet,
    MaskedAutoEncoderViT,
    ResNet,
    SegResNet,
    SegResNetDS,
    SwinUNETR,
    UNet,
    ViT,
    ViTAutoEnc,
)

from monai_essa import adapt, load_adapter, load_weights, merge, save_adapter
from monai_essa.anatomy import classification_network, encoder_view, keep_grid, kept_grid
from monai_essa.anatomy.parts import encoder_prefix
from monai_essa.engines import supervised_network
from monai_essa.methods import APLA, FullTuning, LoRA
from tests.anatomy.own_encoders import OwnMaps, maps_anatomy

Build = Callable[[], nn.Module]

WIDTH: dict[str, Any] = {"hidden_size": 24, "mlp_dim": 48, "num_heads": 3}
# Builds of each class, and the side and number of dimensions of its images.
NETWORKS: dict[str, tuple[Build, int, int]] = {
    "ViT": (lambda: ViT(1, 16, 8, num_layers=2, **WIDTH), 16, 3),
    "ViT 2-D": (lambda: ViT(1, 16, 4, num_layers=2, spatial_dims=2, **WIDTH), 16, 2),
    "ViT with class token": (lambda: ViT(1, 16, 8, num_layers=2, classification=True, **WIDTH), 16, 3),
    "UNETR": (lambda: UNETR(1, 2, 32, 4, 24, 48, 3, spatial_dims=2), 32, 2),
    "SwinUNETR": (lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2), 64, 2),
    "SegResNet": (lambda: SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,), dropout_prob=0.2), 8, 3),
    "SegResNetDS": (lambda: SegResNetDS(init_filters=8, blocks_down=(1, 1)), 8, 3),
    "UNet": (lambda: UNet(2, 1, 2, (4, 8, 16), (2, 2), num_res_units=2), 16, 2),
    "ResNet": (lambda: ResNet("basic", [1, 1, 1, 1], [4, 4, 8, 8], 2, 1), 32, 2),
    "ResNet without pooling": (lambda: ResNet("bottleneck", [1] * 4, [4] * 4, 2, 1, no_max_pool=True), 16, 2),
    "DenseNet": (lambda: DenseNet(2, 1, 2, 8, 4, (1, 2), 2), 16, 2),
}


def images(name: str) -> torch.Tensor:
    _, side, dims = NETWORKS[name]
    return torch.randn(2, 1, *[side] * dims, generator=torch.Generator().manual_seed(0))


def outputs(network: nn.Module, name: str) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(images(name))


def final_tokens(network: Any, batch: torch.Tensor) -> torch.Tensor:
    """(B, N, D) by the network's own methods."""
    if isinstance(network, (DenseNet, ResNet, SegResNet, SegResNetDS, SwinUNETR, UNet)):
        if isinstance(network, ResNet):
            taken = []
            network.layer4.register_forward_hook(lambda _m, _i, output: taken.append(output))
            network(batch)
            deepest = taken[0]
        elif isinstance(network, DenseNet):
            deepest = network.features(batch).relu()
        elif isinstance(network, UNet):
            inner = network.model[1].submodule
            deepest = inner[1].submodule(inner[0](network.model[0](batch)))
        elif isinstance(network, SegResNet):
            deepest = network.encode(batch)[0]
        else:
            deepest = network.encoder(batch)[-1] if isinstance(network, SegResNetDS) else network.swinViT(batch)[-1]
        return deepest.flatten(2).transpose(1, 2)
    trunk = network.vit if isinstance(network, UNETR) else network
    return trunk.norm(trunk(batch)[1][-1])


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_pooled_tokens(name: str, pooling: str) -> None:
    network = NETWORKS[name][0]().eval()
    classifier = classification_network(deepcopy(network), 3, pooling)
    with torch.no_grad():
        tokens = final_tokens(network, images(name))
        if pooling == "attention":
            scores = torch.exp(tokens @ classifier.pool.weight[0] + classifier.pool.bias)
            pooled = (tokens * scores[..., None]).sum(1) / scores.sum(1, keepdim=True)
        else:
            pooled = tokens[:, 0] if name == "ViT with class token" else tokens.mean(1)
        expected = classifier.head(classifier.head_norm(pooled))
    torch.testing.assert_close(outputs(classifier, name), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape == (2, 3) and expected.std() > 0


def test_a_described_encoder_of_feature_maps_is_classified_by_the_mean_of_its_last_map() -> None:
    encoder, x = OwnMaps().eval(), torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        tokens = encoder(x).flatten(2).mT
        classifier = classification_network(encoder, 3, anatomy=maps_anatomy()).eval()
        torch.testing.assert_close(classifier(x), classifier.head(classifier.head_norm(tokens.mean(1))))
        torch.testing.assert_close(encoder_view(classifier.encoder).features(x)[-1].flatten(2).mT, tokens)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_encoder_keeps_its_names_and_tensors(name: str) -> None:
    network = NETWORKS[name][0]()
    prefix, before = encoder_prefix(network), dict(network.named_parameters())
    classifier = classification_network(network, 2)
    encoder = dict(classifier.encoder.named_parameters())
    assert len(encoder) > 4
    assert all(parameter is before[prefix + key] for key, parameter in encoder.items())
    assert [key for key, _ in classifier.named_children()] == ["encoder", "pool", "head_norm", "head"]


@pytest.mark.parametrize("name", ["ViT", "UNETR", "SwinUNETR", "SegResNet", "ResNet", "DenseNet"])
def test_only_classes_of_torch_and_monai_are_in_it(name: str) -> None:
    classifier = classification_network(NETWORKS[name][0](), 2, "attention")
    assert {type(module).__module__.partition(".")[0] for module in classifier.modules()} <= {
        "torch",
        "monai",
        "einops",
    }


@pytest.mark.parametrize("name", ["ViT", "SwinUNETR", "SegResNet", "UNet", "ResNet", "DenseNet"])
def test_copies_traces_and_exports_compute_the_same(name: str) -> None:
    classifier = classification_network(NETWORKS[name][0](), 2, "attention").eval()
    expected = outputs(classifier, name)
    traced = torch.jit.trace(classifier, images(name), check_trace=False)
    exported = torch.export.export(classifier, (images(name),)).module()
    with torch.no_grad():
        for twin in (deepcopy(classifier), traced, exported):
            torch.testing.assert_close(twin(images(name)), expected)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "ViT with class token"])
def test_weights_of_the_network_load_into_the_classifier(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name][0]()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    classifier = classification_network(NETWORKS[name][0](), 2)
    report = load_weights(classifier, tmp_path / "model.pt")
    assert {entry.name for entry in report.missing} == {
        "head_norm.weight",
        "head_norm.bias",
        "head.weight",
        "head.bias",
    }
    prefix, state = encoder_prefix(network), network.state_dict()
    assert all(torch.equal(value, state[prefix + key]) for key, value in classifier.encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("ViT", APLA(columns=4)),
        ("UNETR", LoRA(rank=2)),
        ("SwinUNETR", APLA()),
        ("SegResNet", FullTuning()),
        ("SegResNetDS", FullTuning()),
        ("UNet", FullTuning()),
        ("ResNet", LoRA(rank=2, targets=("conv",))),
        ("DenseNet", FullTuning()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_adapter_of_the_network_goes_on_in_the_classifier(name: str, method: Any, tmp_path: Path) -> None:
    base = NETWORKS[name][0]()
    torch.save(base.state_dict(), tmp_path / "base.pt")
    adapted = adapt(deepcopy(base), method)
    with torch.no_grad():
        for parameter in (parameter for parameter in adapted.parameters() if parameter.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape))
    save_adapter(adapted, tmp_path / "adapter.safetensors")

    classifier = classification_network(NETWORKS[name][0](), 2)
    supervised_network(
        classifier,
        "adapter",
        method,
        also_train=[r"(pool|head_norm|head)\..*"],
        pretrained=tmp_path / "base.pt",
        adapter=tmp_path / "adapter.safetensors",
        img_size=images(name).shape[2:],
    )
    with torch.no_grad():
        tokens = final_tokens(merge(adapted).eval(), images(name))
        expected = classifier.head(classifier.head_norm(tokens.mean(1)))
    torch.testing.assert_close(outputs(classifier, name), expected, atol=1e-5, rtol=1e-5)
    assert classifier.head.weight.requires_grad


def test_a_classifier_is_saved_loaded_and_merged(tmp_path: Path) -> None:
    base = classification_network(NETWORKS["ViT"][0](), 2)
    adapted = adapt(deepcopy(base), LoRA(rank=2), also_train=[r"(head_norm|head)\..*"])
    with torch.no_grad():
        for parameter in (parameter for parameter in adapted.parameters() if parameter.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape))
    expected = outputs(adapted, "ViT")
    save_adapter(adapted, tmp_path / "adapter.safetensors")
    again = load_adapter(deepcopy(base), tmp_path / "adapter.safetensors")
    merged = merge(adapted)
    torch.testing.assert_close(outputs(again, "ViT"), expected)
    torch.testing.assert_close(outputs(merged, "ViT"), expected, atol=1e-5, rtol=1e-5)
    assert merged.state_dict().keys() == base.state_dict().keys()


def test_a_head_that_neither_learns_nor_was_loaded_is_refused(tmp_path: Path) -> None:
    torch.save(NETWORKS["ViT"][0]().state_dict(), tmp_path / "base.pt")
    classifier = classification_network(NETWORKS["ViT"][0](), 2)
    with pytest.raises(ValueError, match=r"'head_norm.weight' of the head is neither loaded nor trained"):
        supervised_network(classifier, "encoder", APLA(), also_train=[r"head\..*"], pretrained=tmp_path / "base.pt")


def test_networks_and_poolings_that_do_not_fit_are_refused() -> None:
    for network in (MaskedAutoEncoderViT(1, 16, 8, **WIDTH), ViTAutoEnc(1, (16,) * 2, (4,) * 2, spatial_dims=2)):
        with pytest.raises(TypeError, match=f"{type(network).__name__} has no forward of its own: load its weights"):
            classification_network(network, 2)
    with pytest.raises(TypeError, match="expected a ViT, .*, got Linear"):
        classification_network(nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match="pooling must be one of mean, attention, flatten, got 'max'"):
        classification_network(NETWORKS["ViT"][0](), 2, "max")
    with pytest.raises(ValueError, match="'flatten' needs a ViT or UNETR, built for one image size, got SegResNet"):
        classification_network(NETWORKS["SegResNet"][0](), 2, "flatten")


@pytest.mark.parametrize("name", ["ViT", "ViT with class token", "UNETR"])
def test_flattened_tokens_keep_their_places(name: str) -> None:
    network = NETWORKS[name][0]().eval()
    classifier = classification_network(deepcopy(network), 3, "flatten")
    with torch.no_grad():
        tokens = final_tokens(network, images(name))
        expected = classifier.head(classifier.head_norm(tokens.reshape(2, -1)))
    torch.testing.assert_close(outputs(classifier, name), expected, atol=1e-5, rtol=1e-5)
    assert type(classifier.pool) is nn.Flatten and classifier.head.in_features == tokens[0].numel()


@pytest.mark.parametrize("network", [UNETR(1, 2, (32, 16), 4, 24, 48, 4, spatial_dims=2), None], ids=["UNETR", "ViT"])
def test_the_encoder_keeps_the_grid_of_its_network(network: nn.Module | None) -> None:
    if network is None:
        network = ViT(1, (64, 32), 16, 24, 48, 1, 4, spatial_dims=2)
        keep_grid(network, (4, 2))
    grid = kept_grid(network)
    assert grid is not None
    assert kept_grid(classification_network(network, 2)) == grid
