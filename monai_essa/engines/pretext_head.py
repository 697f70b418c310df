# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The pretext head of a finished stage, in a file of its own: to look at reconstructions, never in an adapter file."""

from __future__ import annotations

from pathlib import Path

import torch.nn as nn
from ignite.engine import Engine, Events
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from monai_essa.files import written_whole
from monai_essa.switch import switch

__all__ = ["PretextHead", "load_pretext_head", "start_pretext_head"]


class PretextHead:
    """Handler that writes the tensors an objective owns (mask token, decoder, head) when the trainer completes.

    Args:
        objective: a pretext objective; what its ``encoder`` holds is left out.
        path: the file, ``.safetensors``.
    """

    def __init__(self, objective: nn.Module, path: str | Path) -> None:
        self.objective = objective
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Write at the trainer's end."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file under a temporary name, then rename it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = self.objective.state_dict()
        own = {name: state[name].detach().cpu().contiguous() for name in state if not name.startswith("encoder.")}
        with written_whole(self.path) as temporary:
            temporary.write_bytes(save(own))  # save_file would make it readable for the owner alone


def start_pretext_head(objective: nn.Module, path: str | Path | None = None, freeze: bool = False) -> nn.Module:
    """Say how the head of a pretext objective begins: new or loaded, learning or frozen. In place.

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
        TypeError: if ``freeze`` is a text: a command line gives one for ``true`` and ``false``.

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
    ours = {name: tensor for name, tensor in objective.state_dict().items() if not name.startswith("encoder.")}
    for name in sorted(ours.keys() | theirs.keys()):
        there, here = (tuple(head[name].shape) if name in head else "none" for head in (theirs, ours))
        if there != here:
            raise ValueError(
                f"{path} was written by another objective: '{name}' is {there} there and {here} here; "
                "take the objective of that run, or a new head"
            )
    objective.load_state_dict(theirs, strict=False)
    return objective
