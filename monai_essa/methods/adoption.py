# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Let an adapter layer take the place of a module under the same names, and make that module again."""

from __future__ import annotations

import torch.nn as nn

__all__ = ["adopt", "original_of"]

_OWN_DICTS = ("_parameters", "_buffers", "_modules")
_BOUND = "forward"  # a forward pass that lean training put on the module runs that module, and no other


def adopt(layer: nn.Module, original: nn.Module) -> None:
    """Initialise an adapter layer with all that a module holds: the same tensors, children, hooks and settings.

    State-dict keys, attributes such as ``in_features`` and hooks of the user stay as they were; tensors and children
    that the adapter adds or replaces from here on do not reach the original. Hooks belong to both: one that is
    registered or removed on either is on both.

    Args:
        layer: the adapter layer, in its constructor; in place of ``super().__init__()``.
        original: the module whose place it takes; not changed.

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
    """Build the module that an adapter layer stands for, sharing its present tensors, children and hooks.

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
