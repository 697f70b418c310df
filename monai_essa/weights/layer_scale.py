# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Fold LayerScale into the linear layer before it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from monai_essa.weights.key_maps import KeyMap

__all__ = ["fold_scales"]


def fold_scales(tensors: Mapping[str, torch.Tensor], key_map: KeyMap) -> dict[str, torch.Tensor]:
    r"""Multiply the rows of a layer by the LayerScale that follows it, which MONAI's blocks do not have.

    :math:`\gamma \odot (W x + b) = (\operatorname{diag}(\gamma) W) x + \gamma \odot b`, hence without loss (LayerScale:
    Touvron et al., "Going deeper with Image Transformers", arXiv 2103.17239).

    Args:
        tensors: by canonical name.
        key_map: which names the scales and their layers.

    Returns:
        A new dictionary without the scales that were folded; the scaled tensors are new, the others are shared.

    Example:
        >>> gamma = KeyMap("scaled", folds=((r"blocks\.(\d+)\.ls1\.gamma", r"blocks.\1.attn.out_proj"),))
        >>> tensors = {"blocks.0.attn.out_proj.bias": torch.ones(2), "blocks.0.ls1.gamma": torch.tensor([1.0, 3.0])}
        >>> fold_scales(tensors, gamma)
        {'blocks.0.attn.out_proj.bias': tensor([1., 3.])}
    """
    folded = dict(tensors)
    for name, scale in tensors.items():
        layer = key_map.folds_into(name)
        parts = [part for part in (f"{layer}.weight", f"{layer}.bias") if layer and part in folded]
        if any(folded[part].shape[:1] != scale.shape for part in parts):
            continue  # no scale of this layer: it stays, and is found to have no place
        for part in parts:
            # In single precision at least: a product in half precision would lose what the file has.
            precise = torch.promote_types(folded[part].dtype, torch.float32)
            folded[part] = folded[part].to(precise) * scale.to(precise).view(-1, *[1] * (folded[part].ndim - 1))
        if parts:
            del folded[name]
    return folded
