# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Contrast: two views of a patient agree, and patients differ (NT-Xent), or features do (Barlow Twins)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.nn as nn
from monai.losses import BarlowTwinsLoss, ContrastiveLoss
from torch import Tensor

from monai_essa.anatomy import EncoderDescription, encoder_view
from monai_essa.distributed.shares import all_rows
from monai_essa.pretext.batch_views import COMPARED, check_patients, first_of_each, view_major
from monai_essa.pretext.distillation.views import encode_tokens, token_width

__all__ = ["Contrastive"]

_HIDDEN = 512


class Contrastive(nn.Module):
    """Contrast two views of each patient, for any encoder in 2-D and 3-D, without a teacher.

    The losses are MONAI's. ``"nt-xent"`` (SimCLR, Chen et al. 2020, arXiv 2002.05709, equation 1) tells a patient's two
    views from the views of all others; ``"barlow"`` (Barlow Twins, Zbontar et al. 2021, arXiv 2103.03230, equation 1)
    brings the cross-correlation of features near the identity. MONAI divides it by deviations that are unbiased, so
    that its diagonal ends at (B - 1) / B. A second scan of a patient in a batch is left out: crops of one patient are
    never negatives.

    Args:
        encoder: a network that ``encoder_view`` knows, plain or adapted; kept as the attribute ``encoder``, not copied.
        loss: ``"nt-xent"`` or ``"barlow"``.
        temperature: of NT-Xent.
        projection: features that are compared, behind a hidden layer of 512.
        anatomy: where the parts of an encoder are that MONAI does not have; None if the network knows.

    Raises:
        ValueError: if ``loss`` has another value, or a number is not above 0.
        TypeError: if the encoder is of an unknown class.

    Example:
        >>> from monai.networks.nets import ViT
        >>> net = ViT(1, 16, 8, hidden_size=48, mlp_dim=96, num_layers=1, num_heads=4)
        >>> objective = Contrastive(net, projection=16)
        >>> parts = objective(torch.rand(8, 2, 1, 16, 16, 16))
        >>> parts["loss"].backward()
    """

    def __init__(
        self,
        encoder: nn.Module,
        loss: str = "nt-xent",
        temperature: float = 0.5,
        projection: int = 128,
        anatomy: EncoderDescription | None = None,
    ) -> None:
        super().__init__()
        losses = {"nt-xent": ContrastiveLoss(temperature=temperature), "barlow": BarlowTwinsLoss()}
        if loss not in losses:
            raise ValueError(f"expected loss to be one of {', '.join(losses)}, got {loss!r}")
        if temperature <= 0 or projection < 1:
            raise ValueError(f"expected temperature and projection above 0, got {temperature} and {projection}")
        self.loss = loss
        self.temperature = temperature
        self.encoder = encoder
        width = token_width(encoder_view(encoder, anatomy=anatomy))
        self.head = nn.Sequential(nn.Linear(width, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, projection))
        self._compare = losses[loss]

    def forward(
        self,
        crops: Tensor,
        local_crops: Tensor | None = None,
        patients: Sequence[Hashable] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            crops: two views of each image (B, 2, C, spatial...).
            local_crops: not used; it is here because MultiCropd can make them.
            patients: whose crops they are; None: B patients.
            generator: not used: nothing is masked.

        Returns:
            ``loss``, a scalar.

        Raises:
            ValueError: if there are not two views of one size that fits the encoder, or fewer than eight patients while
                training, two in validation.
        """
        if crops.dim() < 2 or crops.shape[1] != 2:
            raise ValueError(f"expected two views (B, 2, C, spatial...), got {tuple(crops.shape)}; set views: [2, 0]")
        rows = first_of_each(patients, len(crops))
        if self.training:
            check_patients(len(rows), COMPARED, self.loss, "take DIET, which compares no patients")
        else:
            check_patients(len(rows), 2, f"validation by {self.loss}", "hold out more scans (a lower hold_out)")
        images, _ = encode_tokens(self.encoder, view_major(crops))
        one, other = (all_rows(features)[rows] for features in self.head(images).chunk(2))
        with torch.autocast(crops.device.type, enabled=False):  # exponentials and products over the batch
            kind = torch.promote_types(one.dtype, torch.float32)
            return {"loss": self._compare(one.to(kind), other.to(kind))}

    @property
    def settings(self) -> list[str | float]:
        """What makes it this objective: the loss, its temperature and the width of the projection."""
        return [self.loss, self.temperature, len(self.head[-1].bias)]  # type: ignore[arg-type]

    def head_parameters(self) -> list[nn.Parameter]:
        """List what is trained beside the encoder: the projection."""
        return list(self.head.parameters())
