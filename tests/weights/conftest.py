# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Fabricated weight files at tiny width, and the networks that they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, MaskedAutoEncoderViT, SwinUNETR, ViT

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "vit": lambda **changes: ViT(
        **{"in_channels": 1, "img_size": 32, "patch_size": 16, "hidden_size": 48, "mlp_dim": 96, "num_layers": 3}
        | {"num_heads": 4}
        | changes
    ),
    "mae": lambda **changes: MaskedAutoEncoderViT(
        **{"in_channels": 1, "img_size": 32, "patch_size": 16, "hidden_size": 48, "mlp_dim": 96, "num_layers": 3}
        | {"num_heads": 4, "decoder_hidden_size": 24, "decoder_mlp_dim": 48, "decoder_num_layers": 1}
        | {"decoder_num_heads": 4, "pos_embed_type": "learnable", "decoder_pos_embed_type": "learnable"}
        | changes
    ),
    "unetr": lambda **changes: UNETR(
        **{"in_channels": 1, "out_channels": 2, "img_size": 32, "feature_size": 4, "hidden_size": 24, "mlp_dim": 48}
        | {"num_heads": 4}
        | changes
    ),
    "swin": lambda **changes: SwinUNETR(
        **{"in_channels": 1, "out_channels": 2, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
        | {"window_size": 3}
        | changes
    ),
}


@pytest.fixture(scope="session")
def build() -> Callable[..., nn.Module]:
    """Builds a tiny network: ``build("vit", num_layers=2)``; a UNETR has the width 24, the ViTs have 48."""
    return lambda kind, **changes: BUILDERS[kind](**changes)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Mapping[str, Any]], Path]:
    """Writes a dictionary by ``torch.save`` and gives the path."""

    def write_file(content: Mapping[str, Any]) -> Path:
        path = tmp_path / "weights.pt"
        torch.save(dict(content), path)
        return path

    return write_file
