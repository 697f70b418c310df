# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a parameter-efficient method and an adapter layer have to offer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.nn as nn

__all__ = ["AdapterLayer", "AdaptationMethod", "NotMergeable"]


class NotMergeable(RuntimeError):
    """Raised by an adapter layer that cannot be folded into the plain layer that it stands for."""


class AdaptationMethod(Protocol):
    """A parameter-efficient method: a frozen dataclass of plain values that says which tensors learn.

    A method knows networks and their blocks; it knows nothing of objectives, data or files.
    """

    def claims(self, network: nn.Module) -> set[str]:
        """Name the plain tensors that the method trains or acts on; two methods never share one."""

    def inject(self, network: nn.Module) -> set[str]:
        """Place the adapter layers, in place, and name the tensors that learn. Never sets ``requires_grad``."""


@runtime_checkable
class AdapterLayer(Protocol):
    """A layer that stands where a plain one stood, with ``weight`` and ``bias`` under the same names, frozen.

    The tensors that it adds sit beside them, so that a plain state dict loads with only the new names missing.
    """

    def plain(self) -> nn.Module:
        """Give the layer that stood here, sharing the frozen tensors."""

    def merged(self) -> nn.Module:
        """Give a plain layer with tensors of its own that computes what this layer computes in eval mode.

        Raises:
            NotMergeable: if no plain layer does.
        """
