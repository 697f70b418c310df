# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Counting in the middle of fake tensors: MONAI's Dice losses make a Python list of ``torch.arange``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["RealCounts"]


class RealCounts(TorchFunctionMode):
    """Compute ``torch.arange`` of plain numbers for real while everything else is fake.

    Example:
        >>> from torch._subclasses.fake_tensor import FakeTensorMode
        >>> with FakeTensorMode(allow_non_fake_inputs=True), RealCounts():
        ...     torch.arange(2, 5).tolist()
        [2, 3, 4]
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        if func is not torch.arange or kwargs:  # an arange on a device is data, and belongs to the fake tensors
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            return func(*args, **(kwargs or {}))
