# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Prove that what was frozen when training began is bit-identical when it ends."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events

__all__ = ["FrozenCheck", "frozen_tensors"]


def frozen_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """List the tensors that training must leave alone, by name.

    These are the parameters without ``requires_grad``, and the buffers (running statistics) of layers that have
    parameters of which none is trainable.

    Args:
        network: the network that is trained, adapted or plain.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2).requires_grad_(False))
        >>> sorted(frozen_tensors(network))
        ['1.bias', '1.num_batches_tracked', '1.running_mean', '1.running_var', '1.weight']
    """
    tensors: dict[str, torch.Tensor] = {
        name: tensor for name, tensor in network.named_parameters() if not tensor.requires_grad
    }
    for path, module in network.named_modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            prefix = f"{path}." if path else ""
            tensors |= {f"{prefix}{name}": buffer for name, buffer in module.named_buffers(recurse=False)}
    return tensors


class FrozenCheck:
    """Handler of the trainer that compares the frozen tensors of a network at the start and at the end of a run.

    It keeps a sha256 of each tensor and no copies. List it before the handlers that write results.

    Args:
        network: the network that is trained.

    Example:
        >>> check = FrozenCheck(nn.Linear(2, 2).requires_grad_(False))
        >>> check.start()
        >>> check.compare()
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._before: dict[str, str] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.compare)

    def start(self) -> None:
        """Take the digests that :meth:`compare` compares with."""
        self._before = self._digests()

    def compare(self) -> None:
        """Compare with the digests taken at the start.

        Raises:
            RuntimeError: if a tensor has changed, or is no longer frozen.
        """
        after = self._digests()
        changed = [name for name, digest in self._before.items() if after.get(name) != digest]
        if changed:
            shown = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
            raise RuntimeError(
                f"{len(changed)} frozen tensors changed during training ({shown}): "
                "keep them out of the optimizer, and normalisation layers in eval mode, or list them in also_train"
            )

    def _digests(self) -> dict[str, str]:
        return {name: _sha256(tensor) for name, tensor in frozen_tensors(self.network).items()}


def _sha256(tensor: torch.Tensor) -> str:
    data: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data).hexdigest()
