# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The protocols of PEFT methods and their layers, and how an adapter layer replaces a plain one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.nn as nn

from monai_essa.outside import Check, Number

__all__ = [
    "AdaptationMethod",
    "AdapterLayer",
    "NotMergeable",
    "adopt",
    "check_above_zero",
    "check_dropout",
    "check_value",
    "original_of",
]

_OWN_DICTS = ("_parameters", "_buffers", "_modules")
_BOUND = "forward"  # a forward pass that lean training put on a module runs that module only


class NotMergeable(RuntimeError):
    """Raised by an adapter layer that cannot be folded into the plain layer that it replaced."""


class AdaptationMethod(Protocol):
    """A parameter-efficient method: a frozen dataclass of plain values that says which tensors learn.

    A method depends on networks and their blocks, and not on objectives, data or files.
    """

    def claims(self, network: nn.Module) -> set[str]:
        """Return the names of the plain tensors that the method trains or acts on; two methods never share one."""

    def inject(self, network: nn.Module) -> set[str]:
        """Insert the adapter layers, in place, and return the names of what learns. Never set ``requires_grad``."""


@runtime_checkable
class AdapterLayer(Protocol):
    """A layer that replaces a plain one, with frozen ``weight`` and ``bias`` under the same names.

    The tensors that it adds are beside them, so that a plain state dict loads with only the new names missing.
    """

    def plain(self) -> nn.Module:
        """Return the layer that was here before, sharing the frozen tensors."""

    def merged(self) -> nn.Module:
        """Return a plain layer with tensors of its own that computes what this layer computes in eval mode.

        Raises:
            NotMergeable: if no plain layer computes this.
        """


def check_value(method: AdaptationMethod, name: str, check: Check) -> None:
    """Check a value of a method at its construction, and store it in the form that the check returns.

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
    """Check that a value of a method is a share in [0, 1); with 1 nothing would be left to learn from.

    Raises:
        ValueError: if it is not.
    """
    check_value(method, name, Number(0, 1))
    if getattr(method, name) == 1:
        raise ValueError(f"{type(method).__name__}, {name}: expected a share below 1, got {getattr(method, name)!r}")


def adopt(layer: nn.Module, original: nn.Module) -> None:
    """Initialise an adapter layer with everything that a module holds: the same tensors, children, hooks and settings.

    State-dict keys, attributes such as ``in_features`` and the user's hooks do not change; tensors and children that
    the adapter adds or replaces later do not reach the original. Hooks are shared: registering or removing one on
    either layer does so on both.

    Args:
        layer: the adapter layer; call this in its constructor instead of ``super().__init__()``.
        original: the module that it replaces; not changed.

    Example:
        >>> class Doubled(nn.Linear):
        ...     def __init__(self, linear):
        ...         adopt(self, linear)
        ...     def forward(self, x):
        ...         return 2 * super().forward(x)
        >>> linear = nn.Linear(4, 2)
        >>> Doubled(linear).weight is linear.weight
        True
    """
    nn.Module.__init__(layer)
    vars(layer).update({name: value for name, value in vars(original).items() if name != _BOUND})
    vars(layer).update({name: dict(vars(original)[name]) for name in _OWN_DICTS})


def original_of(layer: nn.Module, kind: type[nn.Module], added: tuple[str, ...]) -> nn.Module:
    """Build the module that an adapter layer replaced, sharing its current tensors, children and hooks.

    Args:
        layer: a layer that called :func:`adopt`.
        kind: class of the original.
        added: names of the attributes, tensors and children that the adapter added.
    """
    original = kind.__new__(kind)
    adopt(original, layer)
    for name in added:
        delattr(original, name)
    return original
