# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Which tensor of a file belongs to which tensor of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest
import torch.nn as nn

from monai_essa.anatomy.key_maps import KEY_MAPS, MONAI, KeyMap
from monai_essa.weights.alignment import Alignment, alignments

Build = Callable[..., nn.Module]


def align(keys: Iterable[str], network: nn.Module, key_maps: Sequence[KeyMap] = KEY_MAPS) -> Alignment:
    return alignments(keys, network, key_maps)[0]


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
    assert not alignments(decoder, build("vit"), KEY_MAPS)


@pytest.mark.parametrize("averaged", ["teacher", "ema"])
def test_networks_of_one_size_are_all_listed(averaged: str, build: Build) -> None:
    names = list(build("vit").state_dict())
    keys = [f"{wrapper}.{name}" for wrapper in ("net", averaged) for name in names]
    found = alignments(keys, build("vit"), KEY_MAPS)
    assert sorted(each.prefix for each in found) == sorted(["net.", f"{averaged}."])


def test_a_whole_network_and_an_encoder_beside_it_are_two(build: Build) -> None:
    names = list(build("unetr").state_dict())
    encoder = [name.removeprefix("vit.") for name in names if name.startswith("vit.")]
    found = alignments([*names, *encoder], build("unetr"), KEY_MAPS)
    assert [each.keys["norm.weight"] for each in found] == ["vit.norm.weight", "norm.weight"]


def test_a_network_above_another_has_its_own_prefix(build: Build) -> None:
    names = list(build("vit").state_dict())
    keys = [start + name for start in ("net.module.", "net.ema.module.") for name in names]
    assert [each.prefix for each in alignments(keys, build("vit"), KEY_MAPS)] == ["net.module.", "net.ema.module."]


@pytest.mark.parametrize("prefix", ["student", "student.", "student.module", "student.backbone."])
def test_a_given_prefix_chooses_with_or_without_wrappers(prefix: str, build: Build) -> None:
    names = list(build("vit").state_dict())
    keys = [f"{start}.{name}" for start in ("student.module.backbone", "teacher") for name in names]
    (only,) = alignments(keys, build("vit"), KEY_MAPS, prefix)
    assert only.prefix == "student.module.backbone."


def test_a_smaller_network_is_found_by_its_prefix(build: Build) -> None:
    keys = [f"big.{name}" for name in build("vit").state_dict()]
    keys += [f"small.{name}" for name in build("vit", num_layers=1).state_dict()]
    assert [each.prefix for each in alignments(keys, build("vit"), KEY_MAPS)] == ["big."]
    assert [each.prefix for each in alignments(keys, build("vit"), KEY_MAPS, "small")] == ["small."]
    assert alignments(keys, build("vit"), KEY_MAPS, "huge") == []


@pytest.mark.parametrize("moments", ["optimizer.exp_avg.", "state.exp_avg_sq.", "optimizer_states.0.", "grads."])
def test_what_an_optimizer_keeps_is_no_network(moments: str, build: Build) -> None:
    names = list(build("vit").state_dict())
    found = alignments([f"{start}{name}" for start in ("model.", moments) for name in names], build("vit"), KEY_MAPS)
    assert [each.prefix for each in found] == ["model."]
    assert alignments([moments + name for name in names], build("vit"), KEY_MAPS) == []


@pytest.mark.parametrize("wrapped", ["vit._orig_mod.", "module.vit.module.", "vit.module._orig_mod."])
def test_wrappers_at_any_depth_do_not_part_a_network(wrapped: str, build: Build) -> None:
    outer = "module." if wrapped.startswith("module.") else ""
    names = list(build("unetr").state_dict())
    keys = [name.replace("vit.", wrapped, 1) if name.startswith("vit.") else outer + name for name in names]
    alignment = align(keys, build("unetr"))
    assert alignment.prefix == outer
    assert sorted(alignment.places[name] for name in alignment.shared) == sorted(names)
    assert not any(alignment.is_renamed(name) for name in alignment.shared)


def test_wrappers_count_where_two_names_would_become_one(build: Build) -> None:
    names = list(build("vit").state_dict())
    found = alignments([start + name for start in ("", "module.") for name in names], build("vit"), KEY_MAPS)
    assert [each.prefix for each in found] == ["", "module."]


def test_a_compiled_part_of_the_network_has_its_plain_names(build: Build) -> None:
    network, names = build("unetr"), list(build("unetr").state_dict())
    network.vit = nn.DataParallel(network.vit)
    alignment = align(names, network)
    assert len(alignment.shared) == len(names)
    assert alignment.places["norm.weight"] == "vit.module.norm.weight"


def test_the_family_with_the_most_names_is_chosen(build: Build) -> None:
    timm = KeyMap("timm", renames=((r"\.fc([12])\.", r".linear\1."),))
    keys = [name.replace(".linear", ".fc") for name in build("vit").state_dict()]
    assert align(keys, build("vit"), [MONAI, timm]).key_map == timm
    assert align(build("vit").state_dict(), build("vit"), [MONAI, timm]).key_map == MONAI


def test_of_two_tensors_for_one_place_the_encoders_own_is_taken(build: Build) -> None:
    names = list(build("unetr").state_dict())
    alignment = align(["norm.weight", *names], build("unetr"))
    assert alignment.keys["norm.weight"] == "vit.norm.weight"
    assert not alignment.doubles


def test_two_names_for_one_place_of_the_encoder_are_doubles(build: Build) -> None:
    assert align([*build("vit").state_dict(), "blocks.3.weight"], build("vit")).doubles == {"blocks.3.weight"}


@pytest.mark.parametrize(
    ("extra", "belongs"),
    [
        ("blocks.9.norm1.weight", True),
        ("blocks.0.ls1.gamma", True),
        ("register_tokens", True),
        ("rotation_head.weight", False),
        ("decoder_pos_embed", False),
        ("classification_head.0.weight", False),
    ],
)
def test_names_tell_the_files_encoder_from_its_heads(extra: str, belongs: bool, build: Build) -> None:
    alignment = align([*build("vit").state_dict(), extra], build("vit"))
    assert (extra in alignment.file_encoder) == belongs


def test_a_file_without_a_common_name_shares_nothing(build: Build) -> None:
    assert alignments(["conv1.weight", "fc.bias"], build("vit"), KEY_MAPS) == []
