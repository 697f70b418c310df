# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The random numbers of one training or validation step, keyed by what the step is and not by what came before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from monai_essa.data.keyed import key

__all__ = ["keyed_rng"]


@contextmanager
def keyed_rng(device: torch.device, seed: int, *parts: int | str) -> Iterator[torch.Generator]:
    """Within the block torch's global generators are seeded by a key; afterwards they are as before.

    Dropout draws from the global generators, a mask from the generator that the block is given: two keys, so that a
    change of the dropout rate leaves the masks alone.

    Args:
        device: where the step runs.
        seed: the seed of the run.
        parts: what the step is, for example iteration and rank.

    Yields:
        A generator on ``device`` for the masks of the step.

    Example:
        >>> with keyed_rng(torch.device("cpu"), 0, 1) as masks:
        ...     first = torch.rand(2, generator=masks), torch.rand(2)
        >>> with keyed_rng(torch.device("cpu"), 0, 1) as masks:
        ...     again = torch.rand(2, generator=masks), torch.rand(2)
        >>> torch.equal(first[0], again[0]), torch.equal(first[1], again[1])
        (True, True)
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key(seed, "dropout", *parts))
        yield torch.Generator(device).manual_seed(key(seed, "mask", *parts))
