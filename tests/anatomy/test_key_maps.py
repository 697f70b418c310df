# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The tables of key names."""

from __future__ import annotations

import pytest

from monai_essa.anatomy.key_maps import KEY_MAPS, MONAI, KeyMap

SCALED = KeyMap("scaled", folds=((r"blocks\.(\d+)\.ls1\.gamma", r"blocks.\1.attn.out_proj"),))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("blocks.12.weight", "norm.weight"),
        ("blocks.2.bias", "norm.bias"),
        ("blocks.2.norm1.bias", "blocks.2.norm1.bias"),
        ("decoder_blocks.2.bias", "decoder_blocks.2.bias"),
        ("blocks.2.mlp.linear1.bias", "blocks.2.mlp.linear1.bias"),
    ],
)
def test_only_the_last_norm_of_a_masked_autoencoder_is_renamed(key: str, name: str) -> None:
    assert MONAI.rename(key) == name


@pytest.mark.parametrize("name", ["blocks.0.cross_attn.to_q.weight", "blocks.11.norm_cross_attn.bias", "mask_tokens"])
def test_tensors_that_monai_does_without_have_a_reason(name: str) -> None:
    assert MONAI.why_ignored(name)


@pytest.mark.parametrize("name", ["blocks.0.attn.out_proj.weight", "norm.weight", "out.conv.conv.bias"])
def test_tensors_that_are_needed_are_not_ignored(name: str) -> None:
    assert MONAI.why_ignored(name) is None


def test_a_scale_names_the_layer_before_it() -> None:
    assert SCALED.folds_into("blocks.7.ls1.gamma") == "blocks.7.attn.out_proj"
    assert SCALED.folds_into("blocks.7.attn.qkv.bias") is None


def test_family_names_are_unique() -> None:
    assert len({key_map.name for key_map in KEY_MAPS}) == len(KEY_MAPS)
