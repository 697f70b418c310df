# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Mixed precision by device and number format; MONAI's own trainer knows CUDA only."""

from __future__ import annotations

import torch

__all__ = ["PRECISIONS", "autocast_to", "default_precision"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_to(precision: str, device: torch.device) -> torch.autocast:
    """Give the context in which a forward pass computes in a number format.

    Args:
        precision: ``"fp32"`` (no autocast), ``"bf16"`` or ``"fp16"``.
        device: where the forward pass runs.

    Raises:
        ValueError: if the precision is another.

    Example:
        >>> with autocast_to("bf16", torch.device("cpu")):
        ...     torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype
        torch.bfloat16
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return torch.autocast(device.type, dtype=PRECISIONS[precision], enabled=precision != "fp32")


def default_precision() -> str:
    """Return the precision that a run takes unless it names another: ``"bf16"`` where there is CUDA, else ``"fp32"``.

    Example:
        >>> default_precision() in PRECISIONS
        True
    """
    return "bf16" if torch.cuda.is_available() else "fp32"
