# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What may learn, and the conflicts that are refused before anything changes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
import yaml
from monai.networks.nets import SegResNet, ViT

from monai_essa import adapt
from monai_essa.methods import APLA, LoRA
from monai_essa.outside import check_pattern

ROOT = Path(__file__).resolve().parents[2]


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(1, 32, 16, 24, 48, 2, 4)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("norm.wieght", "matches no parameter; names look like norm.weight"),
        (r"blocks\.0\.attn\.out_proj.*", "which the method trains"),
        (r"blocks\.1\.norm.*", "matches 'blocks.1.norm_cross_attn.bias', which no forward pass reaches"),
    ],
)
def test_also_train_that_does_not_fit_is_refused(pattern, message):
    net = vit()
    with pytest.raises(ValueError, match=message):
        adapt(net, APLA(), also_train=[pattern])
    adapt(net, APLA())  # the refusal left the network as it was


def test_also_train_must_be_a_list():
    with pytest.raises(ValueError, match="must be a list of patterns, got the text 'norm.weight'"):
        adapt(vit(), APLA(), also_train="norm.weight")


@pytest.mark.parametrize("pattern", ["(([a-z_0-9.]+)+)+!", "(?x)(.+) +!", "norm.(weight", 5, None])
def test_also_train_that_may_never_end_is_refused_before_it_is_matched(pattern):
    net = vit()
    with pytest.raises(ValueError, match="^also_train: "):
        adapt(net, APLA(), also_train=["norm.weight", pattern])
    assert all(parameter.requires_grad for parameter in net.parameters())


def patterns_in_use() -> list[str]:
    configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob("bundles/*/configs/*.yaml")]
    found = [pattern for config in configs for pattern in config.get("also_train", [])]
    pages = (
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("bundles/*/docs/*.md"),
        *ROOT.glob("tutorials/*.py"),
    )
    for page in pages:
        lists = re.findall(r"also_train=(\[.*?\])[,)]", page.read_text(encoding="utf-8"))
        found += [pattern for text in lists for pattern in ast.literal_eval(text)]
    return sorted(set(found))


def test_the_patterns_of_the_bundles_and_of_the_documentation_are_taken():
    patterns = patterns_in_use()
    assert len(patterns) >= 5
    assert [check_pattern(pattern, "also_train") for pattern in patterns] == patterns


def test_methods_that_claim_one_tensor_are_refused():
    net = vit()
    with pytest.raises(ValueError, match=r"both claim 'blocks\.\d\.attn\.out_proj\.(weight|bias)'"):
        adapt(net, [APLA(columns=2), LoRA(targets=("o",))])
    assert type(net.blocks[0].attn.out_proj) is torch.nn.Linear


def test_method_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="matches no layer of SegResNet"):
        adapt(SegResNet(spatial_dims=2, init_filters=8, in_channels=1, out_channels=2), APLA())
