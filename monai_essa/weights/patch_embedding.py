# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Fit the weight of a patch embedding, or of another first convolution, to other input channels and to a volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["fit_first_convolution"]


def fit_first_convolution(weight: torch.Tensor, shape: Sequence[int]) -> tuple[torch.Tensor, str] | None:
    r"""Change the input channels of a convolution weight, and give a 2-D one a depth, by explicit rules only.

    Channels: C -> 1 takes the mean over the source channels; 1 -> C repeats the channel and divides by C, so that C
    copies of an image give what the image gave. No rule exists for C -> C' otherwise; nothing is ever broadcast.
    Depth: :math:`W_3[..., d] = W_2 / P` for the P depth positions of the kernel, so that a volume that does not
    change along its last axis (the axis of axial slices in RAS) gives the tokens of its slice (averaging inflation:
    Zhang et al., "Adapting Pre-trained Vision Transformers from 2D to 3D through Weight Inflation Improves Medical
    Image Segmentation", arXiv 2302.04303).

    Args:
        weight: (D, C, kernel...) as the file holds it.
        shape: that the network needs, (D, C', kernel...).

    Returns:
        The fitted weight and what was done, in words; None where no rule leads from one shape to the other.

    Example:
        >>> weight, how = fit_first_convolution(torch.ones(8, 3, 4, 4), (8, 1, 4, 4, 4))
        >>> weight.shape, how
        (torch.Size([8, 1, 4, 4, 4]), '3 input channels -> 1 by their mean; depth 4, each slice divided by 4')
    """
    if weight.ndim not in (len(shape), len(shape) - 1):
        return None
    steps = []
    fitted = weight.float()
    source, target = weight.shape[1], shape[1]
    if target == 1 < source:
        fitted = fitted.mean(dim=1, keepdim=True)
        steps.append(f"{source} input channels -> 1 by their mean")
    elif source == 1 < target:
        fitted = fitted.repeat_interleave(target, dim=1) / target
        steps.append(f"1 input channel -> {target}, repeated and divided by {target}")
    if fitted.ndim + 1 == len(shape):
        depth = shape[-1]
        fitted = fitted.unsqueeze(-1).repeat_interleave(depth, dim=-1) / depth
        steps.append(f"depth {depth}, each slice divided by {depth}")
    return (fitted, "; ".join(steps)) if steps and fitted.shape == torch.Size(shape) else None
