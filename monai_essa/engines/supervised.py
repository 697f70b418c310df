# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The supervised objective: the loss of a network's prediction against labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
from monai.utils.enums import CommonKeys as Keys

from monai_essa.network_parts import part_of

__all__ = ["Supervised"]


class Supervised(nn.Module):
    """Give a network and a MONAI loss the call shape of a pretext objective.

    Args:
        network: maps images (B, C, spatial...) to a prediction.
        loss_function: maps (prediction, labels) to a loss, for example ``monai.losses.DiceCELoss``.

    Example:
        >>> objective = Supervised(nn.Conv2d(1, 2, 1), nn.CrossEntropyLoss())
        >>> sorted(objective(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)))
        [loss, pred]
    """

    def __init__(self, network: nn.Module, loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network = network
        self.loss_function = loss_function

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor | None, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Compute the loss.

        Args:
            images: (B, C, spatial...).
            labels: what the loss function takes.
            generator: not used: nothing is masked. It is here because every objective takes one.

        Returns:
            ``loss``, the mean over what the loss function returns, and ``pred``, the prediction without its graph.
            A cross-entropy with class weights adds ``weight``, the sum of the weights of these labels.

        Raises:
            ValueError: if there are no labels.
        """
        if labels is None:
            raise ValueError(
                "a supervised objective needs labels, but the batch has no 'label': "
                "check that each item of the training section has one and that the transforms keep it"
            )
        prediction = self.network(images)
        loss = self.loss_function(prediction, labels).mean()
        parts: dict[str, torch.Tensor] = {str(Keys.LOSS): loss, str(Keys.PRED): prediction.detach()}
        if isinstance(self.loss_function, nn.CrossEntropyLoss) and self.loss_function.weight is not None:
            parts["weight"] = self.loss_function.weight[labels.long()].sum()  # the denominator of its mean
        return parts

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters of the network's head, which starts from nothing and may learn faster.

        Raises:
            TypeError: if the class of the network is unknown, as :func:`monai_essa.network_parts.check_known` says.
        """
        return [
            parameter for name, parameter in self.network.named_parameters() if part_of(self.network, name) == "head"
        ]
