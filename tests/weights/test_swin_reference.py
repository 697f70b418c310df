# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A Swin transformer from its formulas, in double precision, beside the SwinUNETR that a made file was loaded into.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030, in 3-D. The
attention is dense here and masked to windows: nothing is rolled or partitioned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import SwinUNETR
from torch import Tensor

from monai_essa import load_weights
from tests.weights.fabricated import State, swin_file, wrapped

HEADS = (1, 2, 2, 4)
# Which of the eight neighbours stands where before they are merged: MONAI's order since 1.5 ...
MERGED = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
# ... and before, when two stood there twice and two nowhere. The first public weights were trained so.
MERGED_BEFORE = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))


def swin_features(state: State, images: Tensor, window: int, order: Sequence[Sequence[int]] = MERGED) -> list[Tensor]:
    """Compute the five feature maps of an SSL file, each normalised over its channels, (B, C, spatial...)."""
    weight = state["patch_embed.proj.weight"]
    x = F.conv3d(_padded(images, (2, 2, 2)), weight, state["patch_embed.proj.bias"], stride=2).movedim(1, -1)
    features = [x]
    for stage, heads in enumerate(HEADS, start=1):
        for number in (0, 1):
            x = _block(state, f"layers{stage}.0.blocks.{number}.", x, heads, window, number * (window // 2))
        x = _merged(state, f"layers{stage}.0.downsample.", x, order)
        features.append(x)
    return [F.layer_norm(each, each.shape[-1:]).movedim(-1, 1) for each in features]


def _block(state: State, start: str, x: Tensor, heads: int, window: int, shift: int) -> Tensor:
    def layer(name: str, of: Tensor) -> Tensor:
        return F.linear(of, state[f"{start}{name}.weight"], state[f"{start}{name}.bias"])

    def norm(name: str, of: Tensor) -> Tensor:
        return F.layer_norm(of, of.shape[-1:], state[f"{start}{name}.weight"], state[f"{start}{name}.bias"])

    size = x.shape[1:-1]
    windows = [min(window, side) for side in size]
    shifts = [shift if side > window else 0 for side in size]
    y = _padded(norm("norm1", x).movedim(-1, 1), windows).movedim(1, -1)  # padding takes part in the attention
    B, *padded, D = y.shape
    together, bias = _windows(state[f"{start}attn.relative_position_bias_table"], padded, window, windows, shifts)
    q, k, v = layer("attn.qkv", y.reshape(B, -1, D)).reshape(B, -1, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-2, -1) / (D // heads) ** 0.5 + bias  # (B, heads, N, N)
    attended = logits.masked_fill(~together, -torch.inf).softmax(dim=-1) @ v
    y = layer("attn.proj", attended.transpose(1, 2).reshape(B, *padded, D))
    x = x + y[:, : size[0], : size[1], : size[2]]
    return x + layer("mlp.fc2", F.gelu(layer("mlp.fc1", norm("norm2", x))))


def _windows(
    table: Tensor, padded: Sequence[int], window: int, windows: Sequence[int], shifts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return which tokens share a window, (N, N), and the bias of each pair by its offset, (heads, N, N)."""
    places = torch.cartesian_prod(*[torch.arange(side) for side in padded]) - torch.tensor(shifts)
    sides = torch.tensor(windows)
    number, inside = places.div(sides, rounding_mode="floor"), places.remainder(sides)
    together = (number[:, None] == number[None]).all(dim=-1)
    # A window that is larger than the image keeps the numbering of the whole one, in the published code too.
    rank = inside @ torch.tensor([windows[1] * windows[2], windows[2], 1])
    steps = torch.tensor([window**2, window, 1])
    inside = rank[:, None].div(steps, rounding_mode="floor") % window
    span = 2 * window - 1
    offset = (inside[:, None] - inside[None] + window - 1) @ torch.tensor([span**2, span, 1])
    return together, table[offset].movedim(-1, 0)


def _merged(state: State, start: str, x: Tensor, order: Sequence[Sequence[int]]) -> Tensor:
    x = _padded(x.movedim(-1, 1), (2, 2, 2)).movedim(1, -1)
    x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in order], dim=-1)
    x = F.layer_norm(x, x.shape[-1:], state[f"{start}norm.weight"], state[f"{start}norm.bias"])
    return F.linear(x, state[f"{start}reduction.weight"])


def _padded(x: Tensor, multiple: Sequence[int]) -> Tensor:
    """Add zeros behind (B, C, spatial...) up to a multiple along each axis."""
    missing = [-side % step for side, step in zip(x.shape[2:], multiple, strict=True)]
    return F.pad(x, (0, missing[2], 0, missing[1], 0, missing[0]))


def drawn() -> SwinUNETR:
    """A SwinUNETR of width 12 in which no bias is zero and no norm neutral."""
    network = SwinUNETR(1, 2, feature_size=12, num_heads=HEADS, window_size=3).double().eval()
    for parameter in network.swinViT.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("size", [(20, 12, 14), (19, 13, 10)], ids=["even", "odd, with windows larger than the image"])
def test_a_loaded_swin_gives_the_features_of_the_formulas(
    size: tuple[int, int, int], write: Callable[..., Path]
) -> None:
    file, network = swin_file(drawn(), "ssl"), drawn()
    load_weights(network, write(wrapped(file, "state_dict", "")))
    images = torch.randn(2, 1, *size, dtype=torch.float64)
    state = {key.removeprefix("module."): tensor for key, tensor in file.items()}
    with torch.no_grad():
        features = network.swinViT(images)
        torch.testing.assert_close(features, swin_features(state, images, window=3), rtol=0, atol=1e-6)


def test_equal_weights_are_another_function_in_the_order_before(write: Callable[..., Path]) -> None:
    file, network = swin_file(drawn(), "ssl"), drawn()
    report = load_weights(network, write(wrapped(file, "state_dict", "")), source="swin_unetr_ssl")
    images = torch.randn(1, 1, 12, 12, 12, dtype=torch.float64)
    state = {key.removeprefix("module."): tensor for key, tensor in file.items()}
    with torch.no_grad():
        features, before = network.swinViT(images), swin_features(state, images, window=3, order=MERGED_BEFORE)
    assert (features[1] - before[1]).abs().max() > 0.1
    assert [note for note in report.notes if note.startswith("MONAI before 1.5 merged the patches")]
