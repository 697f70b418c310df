# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Made files at tiny width: the names of each family's tensors, written from the published code, and random values.

They prove our reading of the grammar, not that a real file reads so. Nothing here asks the key maps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def vit_file(
    dims: int = 2,
    width: int = 24,
    depth: int = 2,
    mlp: int = 48,
    patch: int = 4,
    channels: int = 3,
    grid: Sequence[int] = (4, 4),
    scale: bool = False,
    chunk: int | None = None,
    class_position: bool = True,
) -> State:
    """The tensors of timm's VisionTransformer, as MAE, DINOv2 (``scale``) and 3DINO (``chunk``) name them; float64."""
    tokens = int(torch.tensor(grid).prod()) + class_position
    state = {
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, tokens, width),
        "patch_embed.proj.weight": draw(width, channels, *[patch] * dims),
        "patch_embed.proj.bias": draw(width),
    }
    for number in range(depth):
        start = f"blocks.{number}." if chunk is None else f"blocks.{number // chunk}.{number}."
        state |= {f"{start}{name}": tensor for name, tensor in block(width, mlp, scale).items()}
    return state | {"norm.weight": draw(width), "norm.bias": draw(width)}


def block(width: int, mlp: int, scale: bool) -> State:
    """The tensors of one block."""
    layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (mlp, width)}
    layers["mlp.fc2"] = (width, mlp)
    state = {f"{name}.weight": draw(*shape) for name, shape in layers.items()}
    state |= {f"{name}.bias": draw(shape[0]) for name, shape in layers.items()}
    state |= {f"norm{i}.{part}": draw(width) for i in (1, 2) for part in ("weight", "bias")}
    return state | ({"ls1.gamma": draw(width), "ls2.gamma": draw(width)} if scale else {})


def vit_tokens(state: State, images: Tensor, heads: int, class_token: bool, eps: float = 1e-5) -> Tensor:
    """Compute the tokens of a file of :func:`vit_file` without chunks, as its authors' network does.

    x = x + gamma_1 * proj(softmax(q k^T / sqrt(d)) v), x = x + gamma_2 * fc2(gelu(fc1(norm(x)))), then the last norm;
    the class token goes in front, and positions are added to it too.
    """
    weight = state["patch_embed.proj.weight"]
    convolve = F.conv2d if weight.ndim == 4 else F.conv3d
    x = convolve(images, weight, state["patch_embed.proj.bias"], stride=tuple(weight.shape[2:]))
    x = x.flatten(2).transpose(1, 2)  # (B, N, D)
    positions = state["pos_embed"]
    if class_token:
        x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + positions
    else:
        x = x + positions[:, positions.shape[1] - x.shape[1] :]
    for number in range(sum(key.endswith("attn.qkv.weight") for key in state)):
        x = _block(state, f"blocks.{number}.", x, heads, eps)
    return F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"], eps)


def _block(state: State, start: str, x: Tensor, heads: int, eps: float) -> Tensor:
    def layer(name: str, of: Tensor) -> Tensor:
        return F.linear(of, state[f"{start}{name}.weight"], state[f"{start}{name}.bias"])

    def norm(name: str, of: Tensor) -> Tensor:
        return F.layer_norm(of, of.shape[-1:], state[f"{start}{name}.weight"], state[f"{start}{name}.bias"], eps)

    one = torch.ones(1, dtype=x.dtype)
    B, N, D = x.shape
    qkv = layer("attn.qkv", norm("norm1", x)).reshape(B, N, 3, heads, D // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, D / heads) each
    weights = (q @ k.transpose(-2, -1) / (D // heads) ** 0.5).softmax(dim=-1)
    attended = (weights @ v).transpose(1, 2).reshape(B, N, D)
    x = x + state.get(f"{start}ls1.gamma", one) * layer("attn.proj", attended)
    hidden = F.gelu(layer("mlp.fc1", norm("norm2", x)))
    return x + state.get(f"{start}ls2.gamma", one) * layer("mlp.fc2", hidden)


def dinov2_hf_file(state: State) -> State:
    """Spell a file of :func:`vit_file` as transformers' Dinov2Model does, with separate queries, keys and values."""
    names = {
        r"^(cls_token|mask_token)$": r"embeddings.\1",
        r"^pos_embed$": "embeddings.position_embeddings",
        r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
        r"^blocks\.": "encoder.layer.",
        r"\.attn\.proj\.": ".attention.output.dense.",
        r"\.ls([12])\.gamma$": r".layer_scale\1.lambda1",
        r"^norm\.": "layernorm.",
    }
    spelled = {}
    for key, tensor in state.items():
        for pattern, replacement in names.items():
            key = re.sub(pattern, replacement, key)
        if ".attn.qkv." in key:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                spelled[key.replace("attn.qkv", f"attention.attention.{part}")] = piece
        else:
            spelled[key] = tensor
    return spelled


def swin_file(network: nn.Module, grammar: str) -> State:
    """Spell the encoder of a SwinUNETR as the files of self-supervision do: ``"ssl"``, ``"dae"``, ``"founder"``."""
    encoder = network.get_submodule("swinViT").state_dict()
    width = encoder["patch_embed.proj.weight"].shape[0]
    if grammar == "founder":
        return {f"state_dict.module.swinViT.{name}": tensor for name, tensor in encoder.items()}
    old = {name.replace(".linear", ".fc"): tensor for name, tensor in encoder.items()}
    norm = {"norm.weight": draw(16 * width).float(), "norm.bias": draw(16 * width).float()}
    if grammar == "ssl":
        heads = {"rotation_head.weight": draw(4, 16 * width), "contrastive_head.weight": draw(8, 16 * width)}
        return {f"module.{name}": tensor for name, tensor in (old | norm | heads).items()}
    deeper = {re.sub(r"^layers(\d)\.0\.", r"layers\1.0.0.", name): tensor for name, tensor in old.items()}
    encoder = {f"encoder.{name}": tensor for name, tensor in (deeper | norm).items()}
    return encoder | {"encoder.mask_token": draw(1, 1, width), "decoder1.conv.weight": draw(2, 2, 3, 3, 3)}


def wrapped(state: State, *parts: str) -> dict[str, object]:
    """Put a state dict into dictionaries, and into the prefix of the last part: ``wrapped(s, "net", "module.")``."""
    *outer, prefix = parts
    content: dict[str, object] = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    for name in reversed(outer):
        content = {name: content, "epoch": 3}
    return content


def draw(*shape: int) -> Tensor:
    """Random values in double precision."""
    return torch.randn(*shape, dtype=torch.float64)
