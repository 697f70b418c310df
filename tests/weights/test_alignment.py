# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Which tensor of a file belongs to which tensor of a network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn as nn

from monai_essa.weights.alignment import align
from monai_essa.weights.key_maps import KEY_MAPS, MONAI, KeyMap

Build = Callable[..., nn.Module]


@pytest.mark.parametrize("kind", ["vit", "mae", "unetr", "swin"])
@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.module.backbone.", "network_weights.encoder."])
def test_a_network_meets_itself_under_any_prefix(kind: str, prefix: str, build: Build) -> None:
    names = list(build(kind).state_dict())
    alignment = align([prefix + name for name in names], build(kind), KEY_MAPS)
    assert alignment.prefix == prefix
    assert {alignment.keys[name]: alignment.places[name] for name in alignment.shared} == {prefix + n: n for n in names}


@pytest.mark.parametrize(
    ("source", "target", "prefix"), [("vit", "unetr", ""), ("unetr", "vit", "vit."), ("mae", "vit", "")]
)
def test_encoders_of_different_networks_meet(source: str, target: str, prefix: str, build: Build) -> None:
    depth = {} if source == "unetr" else {"num_layers": 12}
    network = build(target, **({} if target == "unetr" else {"num_layers": 12}))
    alignment = align(build(source, **depth).state_dict(), network, KEY_MAPS)
    assert alignment.prefix == prefix
    assert set(alignment.shared) == set(build("vit", num_layers=12).state_dict())


def test_a_bare_swin_transformer_meets_its_unetr(build: Build) -> None:
    network = build("swin")
    alignment = align(network.swinViT.state_dict(), network, KEY_MAPS)
    assert {alignment.places[name] for name in alignment.shared} == {
        name for name in network.state_dict() if name.startswith("swinViT.")
    }


def test_a_decoder_is_not_taken_for_an_encoder(build: Build) -> None:
    decoder = [f"decoder_{name}" for name in build("vit").state_dict()]
    assert not align(decoder, build("vit"), KEY_MAPS).shared


@pytest.mark.parametrize("averaged", ["teacher", "ema"])
def test_the_averaged_network_goes_before_the_trained_one(averaged: str, build: Build) -> None:
    names = list(build("vit").state_dict())
    keys = [f"{wrapper}.{name}" for wrapper in ("net", averaged) for name in names]
    assert align(keys, build("vit"), KEY_MAPS).prefix == f"{averaged}."


def test_the_family_with_the_most_names_is_chosen(build: Build) -> None:
    timm = KeyMap("timm", renames=((r"\.fc([12])\.", r".linear\1."),))
    keys = [name.replace(".linear", ".fc") for name in build("vit").state_dict()]
    assert align(keys, build("vit"), [MONAI, timm]).key_map == timm
    assert align(build("vit").state_dict(), build("vit"), [MONAI, timm]).key_map == MONAI


def test_of_two_tensors_for_one_place_the_first_is_taken(build: Build) -> None:
    names = list(build("unetr").state_dict())
    assert align([*names, "norm.weight"], build("unetr"), KEY_MAPS).keys["norm.weight"] == "vit.norm.weight"


def test_a_file_without_a_common_name_shares_nothing(build: Build) -> None:
    assert align(["conv1.weight", "fc.bias"], build("vit"), KEY_MAPS).shared == []
