# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""DIET: each image is a class of its own, and one linear layer tells them apart."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_essa.anatomy import EncoderDescription, encoder_view
from monai_essa.pretext.batch_views import view_major
from monai_essa.pretext.distillation.views import encode_tokens, token_width

__all__ = ["DIET"]


class DIET(nn.Module):
    r"""Classify each view by the number of its image (DIET, Balestriero 2023, arXiv 2302.10260).

    With z the image token of a view of image n and W of N rows, one for each image:

    .. math:: L = - \sum_k y_k \log \operatorname{softmax}(W z)_k, \quad y = (1 - \epsilon) e_n + \epsilon / N

    It needs neither a teacher nor other patients in the batch, so it fits sites of about a thousand images and batches
    of any size. The layer has D weights for each image.

    Args:
        encoder: a network that ``encoder_view`` knows, plain or adapted; kept as the attribute ``encoder``, not copied.
        images: N, the number of images.
        label_smoothing: :math:`\epsilon`; 0.8 as in the paper.
        anatomy: where the parts of an encoder are that MONAI does not have; None if the network knows.

    Raises:
        ValueError: if there are fewer than two images, or the smoothing is outside [0, 1).
        TypeError: if the encoder is of an unknown class.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 16, 8, hidden_size=48, mlp_dim=96, num_layers=1, num_heads=4)
        >>> objective = DIET(net, images=10)
        >>> objective(torch.rand(2, 1, 1, 16, 16, 16), torch.tensor([3, 9]))["loss"].backward()
    """

    def __init__(
        self, encoder: nn.Module, images: int, label_smoothing: float = 0.8, anatomy: EncoderDescription | None = None
    ) -> None:
        super().__init__()
        if images < 2 or not 0 <= label_smoothing < 1:
            raise ValueError(f"expected two images or more and a smoothing in [0, 1), got {images}, {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.encoder = encoder
        self.head = nn.Linear(token_width(encoder_view(encoder, anatomy=anatomy)), images, bias=False)

    def forward(self, crops: Tensor, numbers: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            crops: views of each image (B, V, C, spatial...).
            numbers: of the images (B), from 0 to N - 1.
            generator: not used: nothing is masked.

        Returns:
            ``loss``, a scalar.

        Raises:
            ValueError: if there is not one number for each image.
        """
        if numbers.shape != crops.shape[:1]:
            raise ValueError(f"expected one number for each of {len(crops)} images, got {tuple(numbers.shape)}")
        tokens, _ = encode_tokens(self.encoder, view_major(crops))
        logits = self.head(tokens)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return {"loss": F.cross_entropy(logits, numbers.repeat(crops.shape[1]), label_smoothing=self.label_smoothing)}

    @property
    def settings(self) -> list[float]:
        """What makes it this objective: the number of images and the smoothing."""
        return [len(self.head.weight), self.label_smoothing]

    def head_parameters(self) -> list[nn.Parameter]:
        """List what is trained beside the encoder: the linear layer."""
        return list(self.head.parameters())
