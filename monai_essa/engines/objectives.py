# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Objectives in the engine: batches without labels, the supervised loss, the pretext head between stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from monai_essa.anatomy.parts import part_of
from monai_essa.distributed.processes import process_rank
from monai_essa.engines.supervised.average import WeightAverage
from monai_essa.files import written_whole
from monai_essa.outside import switch

__all__ = [
    "PretextHead",
    "Supervised",
    "load_pretext_head",
    "prepare_unlabelled_batch",
    "start_pretext_head",
    "unlabelled_keys",
]

FOREGROUND = "foreground"
_NOT_HEAD = ("encoder.", "teacher.")


class Supervised(nn.Module):
    """Call a network and a MONAI loss as a pretext objective is called.

    Args:
        network: maps images (B, C, spatial...) to a prediction.
        loss_function: maps (prediction, labels) to a loss, for example ``monai.losses.DiceCELoss``.
        ema: momentum of a moving average of what learns, which :class:`~monai_essa.engines.UseAverage` validates and
            hands over; default or 0: there is none.

    Raises:
        ValueError: if ``ema`` is not from 0 to below 1.

    Example:
        >>> objective = Supervised(nn.Conv2d(1, 2, 1), nn.CrossEntropyLoss())
        >>> sorted(objective(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)))
        ['loss', 'pred']
    """

    def __init__(
        self,
        network: nn.Module,
        loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        ema: float | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss_function = loss_function
        self.average = WeightAverage(network, ema) if ema else None

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

    def after_step(self) -> None:
        """Move the average of the weights, if there is one, after a step of the optimizer."""
        if self.average is not None:
            self.average.follow(self.network)

    def head_parameters(self) -> list[nn.Parameter]:
        """List the parameters of the network's head, which starts from nothing and may learn faster.

        Raises:
            TypeError: if the class of the network is unknown, as :func:`monai_essa.anatomy.parts.check_known` says.
        """
        return [
            parameter for name, parameter in self.network.named_parameters() if part_of(self.network, name) == "head"
        ]


class PretextHead:
    """Handler that writes the tensors an objective owns (mask token, decoder, head) when the trainer completes.

    Args:
        objective: a pretext objective; what its ``encoder`` and a ``teacher`` hold is left out.
        path: the file, ``.safetensors``.
    """

    def __init__(self, objective: nn.Module, path: str | Path) -> None:
        self.objective = objective
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Write at the trainer's end, in the first process."""
        if process_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file under a temporary name, then rename it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = self.objective.state_dict()
        own = {name: state[name].detach().cpu().contiguous() for name in state if not name.startswith(_NOT_HEAD)}
        with written_whole(self.path) as temporary:
            temporary.write_bytes(save(own))  # save_file would make it readable for the owner alone


def start_pretext_head(objective: nn.Module, path: str | Path | None = None, freeze: bool = False) -> nn.Module:
    """Set how the head of a pretext objective begins: new or loaded, learning or frozen. In place.

    A new head learns with the adapted tensors and is thrown away after the stage. A head that an earlier
    self-supervised run left can go on learning, or stay as it is (target parameter pre-training, arXiv 2408.15011,
    trains with a decoder beside the frozen backbone). Call it before the optimizer is made.

    Args:
        objective: a pretext objective with ``head_parameters``.
        path: a file of :class:`PretextHead`; default: the head stays as it was drawn.
        freeze: its parameters do not learn.

    Returns:
        The same objective.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file was written by another objective, or a head that was not loaded is to be frozen.
        TypeError: if ``freeze`` is a text, as a command line passes for ``true`` and ``false``.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from monai_essa.pretext import SimMIM
        >>> objective = SimMIM(ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4))
        >>> start_pretext_head(objective, freeze=True)
        Traceback (most recent call last):
        ValueError: freeze_pretext_head would keep a random head: give pretext_head=FILE, or let the head learn
    """
    if switch("freeze_pretext_head", freeze) and path is None:
        raise ValueError("freeze_pretext_head would keep a random head: give pretext_head=FILE, or let the head learn")
    if path is not None:
        load_pretext_head(objective, path)
    if freeze:
        for parameter in objective.head_parameters():  # type: ignore[operator]
            parameter.requires_grad_(False)
    restart = getattr(objective, "restart", None)
    if restart is not None:  # its teacher is a copy of the head as it is now
        restart()
    return objective


def load_pretext_head(objective: nn.Module, path: str | Path) -> nn.Module:
    """Load a file of :class:`PretextHead` into an objective of the same kind. In place.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or was written by another objective or one of other sizes; the objective is
            then as it was.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no pretext head at {path}; it is written beside model.pt when a stage ends")
    try:
        theirs = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); copy it again") from error
    ours = {name: tensor for name, tensor in objective.state_dict().items() if not name.startswith(_NOT_HEAD)}
    for name in sorted(ours.keys() | theirs.keys()):
        there, here = (tuple(head[name].shape) if name in head else "none" for head in (theirs, ours))
        if there != here:
            raise ValueError(
                f"{path} was written by another objective: '{name}' is {there} there and {here} here; "
                "take the objective of that run, or a new head"
            )
    objective.load_state_dict(theirs, strict=False)
    return objective


def prepare_unlabelled_batch(
    batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Prepare a batch for a self-supervised trainer or evaluator: their ``prepare_batch``.

    MONAI's default passes the label as second input, where a pretext objective takes a foreground mask.

    Args:
        batch: a collated batch with ``"image"`` (B, C, spatial...) and perhaps ``"foreground"`` (B, 1, spatial...).
        device: where the tensors go.
        non_blocking: as in ``Tensor.to``.
        kwargs: further arguments of ``Tensor.to``; MONAI's engines pass their ``to_kwargs``.

    Returns:
        Images, and the foreground mask or None.

    Example:
        >>> images, foreground = prepare_unlabelled_batch({"image": torch.zeros(2, 1, 8, 8), "label": torch.ones(2)})
        >>> images.shape, foreground
        (torch.Size([2, 1, 8, 8]), None)
    """
    images = batch[Keys.IMAGE].to(device=device, non_blocking=non_blocking, **kwargs)
    if FOREGROUND not in batch:
        return images, None
    return images, batch[FOREGROUND].to(device=device, non_blocking=non_blocking, **kwargs)


def unlabelled_keys(weight_foreground: bool = True) -> list[str]:
    """Name the entries of an item that a self-supervised stage loads: the image and, if it counts, its foreground.

    The numbers of image and patient are there for objectives of views; the items of others have none.

    Args:
        weight_foreground: patches count in the loss by their share of foreground.

    Raises:
        TypeError: if ``weight_foreground`` is a text: a command line gives one for ``true`` and ``false``.

    Example:
        >>> unlabelled_keys(), unlabelled_keys(weight_foreground=False)
        (['image', 'foreground', 'number', 'patient'], ['image', 'number', 'patient'])
    """
    foreground = [FOREGROUND] if switch("weight_foreground", weight_foreground) else []
    return [str(Keys.IMAGE), *foreground, "number", "patient"]
