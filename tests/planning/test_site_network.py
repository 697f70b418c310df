# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tests for the choice of network and overlays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, SegResNet, SwinUNETR, UNet, ViT

from monai_essa.bundling.folder import bundle_folder
from monai_essa.planning.choices import Choice, network_choice, overlay_choices

NETWORKS = {
    "vit": lambda: ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=1, num_heads=4),
    "unetr": lambda: UNETR(1, 2, 32, 4, 48, 96, 4),
    "swin_unetr": lambda: SwinUNETR(1, 2, feature_size=12),
    "segresnet": lambda: SegResNet(init_filters=8),
}


def saved(network: nn.Module, folder: Path) -> Path:
    torch.save({"state_dict": network.state_dict()}, folder / "weights.pt")
    return folder / "weights.pt"


@pytest.mark.parametrize(
    ("kind", "ssa", "segmentation"),
    [
        ("vit", "vit", "unetr"),
        ("unetr", "vit", "unetr"),
        ("swin_unetr", "swin_unetr", "swin_unetr"),
        ("segresnet", "segresnet", "segresnet"),
    ],
)
def test_the_weights_tell_the_network(kind: str, ssa: str, segmentation: str, tmp_path: Path) -> None:
    path = saved(NETWORKS[kind](), tmp_path)
    assert network_choice("essa_ssa", path).value == ssa
    assert network_choice("essa_segmentation", path).value == segmentation


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights\.pt: expected weights of a ViT, UNETR, SwinUNETR or SegResNet"):
        network_choice("essa_ssa", saved(UNet(3, 1, 2, (4, 8), (2,)), tmp_path))


def test_without_weights_the_bundle_decides_and_the_user_before_it() -> None:
    assert network_choice("essa_ssa").value == "vit"
    assert network_choice("essa_segmentation").value == "unetr"
    assert network_choice("essa_ssa", None, "segresnet") == Choice("segresnet", "--network segresnet")
    with pytest.raises(ValueError, match="--network vit has no decoder"):
        network_choice("essa_segmentation", None, "vit")


@pytest.mark.parametrize(
    ("stage", "network", "modality", "pretrained", "files"),
    [
        ("essa_ssa", "vit", "mr", True, []),
        ("essa_ssa", "vit", "ct", False, ["method_full", "intensity_ct"]),
        ("essa_ssa", "swin_unetr", "us", True, ["network_swin_unetr", "intensity_us"]),
        ("essa_segmentation", "unetr", "mr", False, ["start_random"]),
        ("essa_segmentation", "segresnet", "mr", True, ["network_segresnet", "method_lora_conv"]),
    ],
)
def test_overlays_are_files_of_the_bundle(
    stage: str, network: str, modality: str, pretrained: bool, files: list[str]
) -> None:
    chosen = overlay_choices(stage, Choice(network, "n"), Choice(modality, "m"), pretrained)
    assert [choice.value for choice in chosen] == [f"{name}.yaml" for name in files]
    assert all((bundle_folder(stage) / "configs" / choice.value).is_file() for choice in chosen)
