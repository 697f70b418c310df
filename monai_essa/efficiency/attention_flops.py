# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Operations of the CPU's attention kernel, which torch's FLOP counter leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

__all__ = ["flop_counter"]

_ATEN = torch.ops.aten


def flop_counter() -> FlopCounterMode:
    """Give torch's FLOP counter, with the attention kernel of the CPU counted as those of CUDA are.

    Example:
        >>> query = torch.zeros(1, 2, 16, 8)
        >>> with flop_counter() as counter:
        ...     attended = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        >>> counter.get_total_flops() == 2 * 2 * (2 * 16 * 16 * 8)
        True
    """
    formulas: dict[Any, Callable[..., int]] = {
        _ATEN._scaled_dot_product_flash_attention_for_cpu: _forward,
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _forward(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int(sdpa_flop_count(query, key, value))


def _backward(
    grad: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *_: Any,
    out_shape: Any = None,
    **__: Any,
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))
