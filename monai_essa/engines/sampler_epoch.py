# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Tell the sampler which epoch begins, and how much of it a resumed run has seen."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events

from monai_essa.data.keyed import KeyedSampler

__all__ = ["SamplerEpoch"]


class SamplerEpoch:
    """Handler of the trainer that calls ``set_epoch`` of its loader's :class:`~monai_essa.data.keyed.KeyedSampler`.

    Ignite knows after a resume that an epoch is half done, but gives the batches of that epoch from the first one on.
    The sampler leaves out those that are done.

    Example:
        >>> from monai.data import DataLoader, Dataset
        >>> from monai.engines import SupervisedTrainer
        >>> from monai_essa.data.keyed import KeyedDataset
        >>> keyed = KeyedDataset(Dataset([3, 4, 5], transform=None))
        >>> seen = []
        >>> trainer = SupervisedTrainer(
        ...     device="cpu", max_epochs=2, train_data_loader=DataLoader(keyed, sampler=KeyedSampler(3)), network=None,
        ...     optimizer=None, loss_function=None, train_handlers=[SamplerEpoch()],
        ...     iteration_update=lambda engine, batch: seen.append(int(batch)),
        ... )
        >>> trainer.run()
        >>> sorted(seen[:3]), sorted(seen[3:])
        ([3, 4, 5], [3, 4, 5])
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a MONAI trainer.

        Args:
            engine: trainer whose ``data_loader`` draws from a :class:`~monai_essa.data.keyed.KeyedSampler`.

        Raises:
            TypeError: if it draws from something else.
        """
        sampler = getattr(engine.data_loader, "sampler", None)  # type: ignore[attr-defined]
        if not isinstance(sampler, KeyedSampler):
            raise TypeError(
                f"SamplerEpoch needs a data loader with sampler=KeyedSampler(len(dataset), seed), "
                f"got {type(sampler).__name__}"
            )
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Set the epoch.

        Raises:
            ValueError: if an epoch of the trainer is not one pass over its loader.
        """
        loader, state = engine.data_loader, engine.state
        if state.epoch_length != len(loader):
            raise ValueError(
                f"epoch_length {state.epoch_length} is not the {len(loader)} batches of the data loader: leave "
                f"epoch_length out and give KeyedSampler samples_per_epoch={state.epoch_length * loader.batch_size}"
            )
        done = state.iteration - (state.epoch - 1) * state.epoch_length
        loader.sampler.set_epoch(state.epoch, skip=done * loader.batch_size)
