# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""End a run with the weights of its best epoch."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn as nn
from ignite.engine import Engine, Events

__all__ = ["RestoreBest"]


class RestoreBest:
    """Handler that loads the best checkpoint into the network when the trainer completes.

    Attach it before the handlers that write results.

    Args:
        network: the network that the checkpoint holds the state of.
        path: what MONAI's ``CheckpointSaver`` wrote with ``save_key_metric=True``.
    """

    def __init__(self, network: nn.Module, path: str | Path) -> None:
        self.network = network
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Restore at the trainer's end."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the checkpoint.

        Raises:
            FileNotFoundError: if no validation has run, so that no best epoch is known.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"no best checkpoint at {self.path}; set val_interval to at most max_epochs")
        self.network.load_state_dict(torch.load(self.path, weights_only=True))
