# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a parameter-efficient method and an adapter layer have to offer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.nn as nn

from monai_essa.outside import Check, Number

__all__ = ["AdapterLayer", "AdaptationMethod", "NotMergeable", "check_above_zero", "check_dropout", "check_value"]


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
        """Return the layer that stood here, sharing the frozen tensors."""

    def merged(self) -> nn.Module:
        """Return a plain layer with tensors of its own that computes what this layer computes in eval mode.

        Raises:
            NotMergeable: if no plain layer does.
        """


def check_value(method: AdaptationMethod, name: str, check: Check) -> None:
    """Check a value of a method at its construction, and keep it in the form that the check returns.

    Raises:
        ValueError: if the value does not fit; the message names the method and the value.
    """
    value = check.check(getattr(method, name), f"{type(method).__name__}, {name}")
    object.__setattr__(method, name, value)


def check_above_zero(method: AdaptationMethod, name: str) -> None:
    """Check that a value of a method is a finite number above zero.

    Raises:
        ValueError: if it is not.
    """
    check_value(method, name, Number(0))
    if not getattr(method, name):
        raise ValueError(f"{type(method).__name__}, {name}: expected a number above 0, got {getattr(method, name)!r}")


def check_dropout(method: AdaptationMethod, name: str = "dropout") -> None:
    """Check that a value of a method is a share in [0, 1): with 1 nothing would be left to learn from.

    Raises:
        ValueError: if it is not.
    """
    check_value(method, name, Number(0, 1))
    if getattr(method, name) == 1:
        raise ValueError(f"{type(method).__name__}, {name}: expected a share below 1, got {getattr(method, name)!r}")
