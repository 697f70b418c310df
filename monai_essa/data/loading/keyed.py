# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Keyed randomness: each draw is a function of (seed, epoch, index), never of what was drawn before.

A stream of random numbers has a position that a killed run loses and that each worker process keeps for itself. A key
has none: the order of an epoch and the augmentation of an item can be computed at any time, in any process.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.data.utils import set_rnd
from torch.utils.data import Dataset, Sampler

from monai_essa.distributed.processes import process_count, process_rank
from monai_essa.distributed.shares import BatchShare
from monai_essa.files import short_digest

__all__ = ["KeyedDataset", "KeyedSampler", "OwnCases", "key"]


def key(seed: int, *parts: int | str) -> int:
    """Hash a seed and what it is used for to a 32-bit number that seeds a generator.

    The number is the first four bytes, big-endian, of BLAKE2b over the text ``"<seed>/<part>/..."``. Unlike sums such
    as ``seed + epoch``, neighbouring keys are unrelated, and it is the same on every machine and Python version.

    Args:
        seed: the seed of the run.
        parts: numbers and names, for example ``"order", epoch`` or ``epoch, index``.

    Returns:
        A number from 0 to 2**32 - 1.

    Raises:
        TypeError: if the seed or a part is neither a whole number nor text.

    Example:
        >>> key(0, "order", 1) == key(0, "order", 1), key(0, "order", 1) == key(0, "order", 2)
        (True, False)
    """
    text = "/".join(part if isinstance(part, str) else str(operator.index(part)) for part in (seed, *parts))
    return int(short_digest(text, size=4), 16)


class KeyedSampler(Sampler[tuple[int, int]]):
    """Yield the pairs (epoch, index) of an epoch in an order that depends on (seed, epoch) only.

    All epochs together are one endless sequence: a permutation of the data set, the next permutation, and so on. The
    ``epoch`` of a pair counts these permutations. With ``samples_per_epoch`` an epoch of the trainer is a window of
    the sequence, shorter or longer than the data set, so that three labelled volumes still make a useful epoch.

    With ``patients`` each patient comes once in a permutation, with the next of their scans each time, and P patients
    alternate in two halves: any P / 2 neighbours are different patients, which an objective that compares patients
    needs of a batch.

    With several processes, process r of W takes each W-th pair of the same order, from the r-th on: batch i of all
    processes together holds the samples that batch i of a single process with a W times larger batch holds. An epoch
    that W does not divide is filled up from its own beginning, and :meth:`share` says which samples are no filling.

    Args:
        length: number of items of the data set.
        seed: the seed of the run.
        samples_per_epoch: number of samples of an epoch over all processes; default: a permutation.
        process: number of this process, from 0, and how many there are; default: those of ``torch.distributed``, or
            0 and 1 where it is not initialised.
        patients: of the items; default: an item is a patient, and the order is any.
        whole_batches_of: batch size of each process: leave out the end of an epoch that fills no batch of all of
            them, unless it is all there is; default: nothing is left out.

    Raises:
        ValueError: if ``length``, ``samples_per_epoch`` or the number of processes is below 1, that of this one
            is not below it, there is not one patient for each item, or there are more processes than samples.

    Example:
        >>> sampler = KeyedSampler(length=3, seed=0)
        >>> sampler.set_epoch(1)
        >>> sorted(sampler)
        [(1, 0), (1, 1), (1, 2)]
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        process: tuple[int, int] | None = None,
        patients: Sequence[Hashable] | None = None,
        whole_batches_of: int | None = None,
    ) -> None:
        self.length = length
        self.seed = seed
        self.scans = None if patients is None else _scans_of_each(patients, length)
        self._once = length if self.scans is None else len(self.scans)  # items of a permutation
        self.samples_per_epoch = self._once if samples_per_epoch is None else samples_per_epoch
        self.rank, self.world_size = (process_rank(), process_count()) if process is None else process
        whole = (whole_batches_of or 1) * self.world_size
        self._used = self.samples_per_epoch
        self.epoch = 0
        self.skip = 0
        if min(self.length, self.samples_per_epoch, self.world_size) < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"a sampler needs a data set of at least one item and rank < world_size, got length {self.length}, "
                f"samples_per_epoch {self.samples_per_epoch}, rank {self.rank}, world_size {self.world_size}: "
                "check the data list"
            )
        _check_enough(self.samples_per_epoch, self.world_size, "samples in an epoch")
        if whole_batches_of is not None and self.samples_per_epoch >= whole:
            self._used -= self.samples_per_epoch % whole

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch that the next iteration over the sampler yields.

        Args:
            epoch: number of the epoch.
            skip: number of samples of this process that a resumed run has used already; they are left out.
        """
        self.epoch = epoch
        self.skip = skip

    def __len__(self) -> int:
        """Count the samples of this process in a whole epoch, skipped or not."""
        return -(-self._used // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        window = self._window()
        for step in range(self.skip, len(self)):
            yield window[(step * self.world_size + self.rank) % len(window)]

    def share(self, batch: int, batch_size: int) -> BatchShare:
        """Return the share of this process in a batch of all processes.

        Args:
            batch: number of the batch in its epoch, from 0 on.
            batch_size: of each process.

        Example:
            >>> KeyedSampler(length=5, process=(1, 2)).share(batch=1, batch_size=2)
            BatchShare(rows=1, rank=1, count=2)
        """
        return _share(self._used, batch, batch_size, self.rank, self.world_size)

    def _window(self) -> list[tuple[int, int]]:
        start = self.epoch * self.samples_per_epoch
        first, last = start // self._once, (start + self.samples_per_epoch - 1) // self._once
        sequence = [(number, index) for number in range(first, last + 1) for index in self._permutation(number)]
        offset = start - first * self._once
        return sequence[offset : offset + self._used]

    def _permutation(self, number: int) -> list[int]:
        generator = torch.Generator().manual_seed(key(self.seed, "order", number))
        if self.scans is None:
            return torch.randperm(self.length, generator=generator).tolist()
        halves = (self.scans[0::2], self.scans[1::2])
        order = [half[place] for half in halves for place in torch.randperm(len(half), generator=generator).tolist()]
        return [scans[number % len(scans)] for scans in order]


class OwnCases(Sampler[int]):
    """Yield the numbers of the cases that this process evaluates: each W-th one of W processes, in their order.

    Args:
        cases: the data set.
        fill: give each process equally many, by the first cases again, for a step that computes batches of all
            processes and leaves these out (:meth:`share`); else each case is evaluated once.

    Raises:
        ValueError: if there are more processes than cases, and nothing is filled up.

    Example:
        >>> list(OwnCases(range(3)))
        [0, 1, 2]
    """

    def __init__(self, cases: Any, fill: bool = False) -> None:
        self.cases = cases
        self.fill = fill
        self.rank, self.world_size = process_rank(), process_count()
        if not fill:
            _check_enough(len(cases), self.world_size, "cases to evaluate")

    def __len__(self) -> int:
        return -(-len(self.cases) // self.world_size) if self.fill else len(self._own())

    def __iter__(self) -> Iterator[int]:
        yield from self._own()
        yield from range(len(self) - len(self._own()))

    def share(self, batch: int, batch_size: int) -> BatchShare:
        """Return the share of this process in a batch of all processes, as :meth:`KeyedSampler.share` does."""
        return _share(len(self.cases), batch, batch_size, self.rank, self.world_size)

    def _own(self) -> range:
        return range(self.rank, len(self.cases), self.world_size)


class KeyedDataset(Dataset[Any]):
    """Make the random transforms of a MONAI data set a function of (seed, epoch, index).

    Before an item is made, the random state of the data set's transform, nested transforms included, is set from the
    key, and so are the global states of torch, numpy and random, which a few transforms draw from; the global states
    are put back afterwards. An item is therefore the same with any number of workers and after a resume.

    Args:
        dataset: a data set with a ``transform``: ``Dataset``, ``CacheDataset``, ``PersistentDataset`` of MONAI.
        seed: the seed of the run.

    Raises:
        TypeError: if the data set has no ``transform``.

    Example:
        >>> from monai.data import CacheDataset
        >>> from monai.transforms import RandGaussianNoised
        >>> noise = RandGaussianNoised("image", prob=1.0)
        >>> cached = CacheDataset([{"image": torch.zeros(1, 4, 4)}], noise, progress=False)
        >>> keyed = KeyedDataset(cached, seed=0)
        >>> one, again, other = (keyed[epoch, 0]["image"] for epoch in (1, 1, 2))
        >>> torch.equal(one, again), torch.equal(one, other)
        (True, False)
    """

    def __init__(self, dataset: Dataset[Any], seed: int = 0) -> None:
        if not hasattr(dataset, "transform"):
            raise TypeError(
                f"KeyedDataset needs a data set with a 'transform' to seed, such as monai.data.CacheDataset, "
                f"got {type(dataset).__name__}"
            )
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, position: tuple[int, int]) -> Any:
        """Make an item.

        Args:
            position: the pair (epoch, index) that :class:`KeyedSampler` yields.

        Returns:
            What the data set returns for ``index``: a dictionary, or a list of them where a transform crops several.

        Raises:
            TypeError: if ``position`` is not a pair.
        """
        if not isinstance(position, tuple) or len(position) != 2:
            raise TypeError(
                f"KeyedDataset takes a pair (epoch, index), got {position!r}: "
                "give the DataLoader sampler=KeyedSampler(len(dataset), seed) and leave shuffle out"
            )
        epoch, index = position
        item_seed = key(self.seed, epoch, index)
        with _global_random_state(item_seed):
            set_rnd(self.dataset.transform, seed=item_seed)
            return self.dataset[index]


def _share(samples: int, batch: int, batch_size: int, rank: int, processes: int) -> BatchShare:
    rows = min(samples - batch * batch_size * processes, batch_size * processes)
    return BatchShare(rows, rank, processes)


def _check_enough(samples: int, processes: int, what: str) -> None:
    if 1 <= samples < processes:
        raise ValueError(
            f"expected no more processes than {what}, got {processes} for {samples}: give torchrun "
            f"--nproc_per_node={samples} or fewer"
        )


@contextmanager
def _global_random_state(seed: int) -> Iterator[None]:
    numpy_state, python_state = np.random.get_state(), random.getstate()
    # The CPU generator alone: torch.manual_seed() would also seed the GPU, which a worker process must not touch.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def _scans_of_each(patients: Sequence[Hashable], length: int) -> list[list[int]]:
    """Return the numbers of the items of each patient, in the order in which the patients come first."""
    if len(patients) != length:
        raise ValueError(f"expected one patient for each of {length} items, got {len(patients)}")
    found: dict[Hashable, list[int]] = {}
    for number, patient in enumerate(patients):
        found.setdefault(patient, []).append(number)
    return list(found.values())
