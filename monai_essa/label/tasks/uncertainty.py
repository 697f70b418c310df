# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Active learning: score unlabelled volumes by the network's uncertainty, measured with dropout at inference."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.others.generic import name_to_device

from monai_essa.error_line import one_line
from monai_essa.label.requests import scoring_record
from monai_essa.label.store import BASE
from monai_essa.label.studies import SCORE, UNREADABLE
from monai_essa.label.tasks.infer import AdapterInfer

__all__ = ["EntropyScoring", "MostUncertain", "dropout_on", "soft_entropy"]

_logger = logging.getLogger(__name__)
_STAMP = "epistemic_stamp"  # what the score was computed with
_SERVED_FOR = 3600  # seconds during which the next reader gets another volume
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def soft_entropy(probabilities: torch.Tensor) -> float:
    """Compute the mean entropy, over voxels, of the mean of soft predictions.

    Args:
        probabilities: (samples, classes, spatial...); they sum to 1 over the classes.

    Returns:
        The entropy in nats: 0 if all samples are certain of the same class, log(classes) if nothing is known.
    """
    mean = probabilities.mean(0)
    return float(-(mean * mean.clamp_min(1.0e-8).log()).sum(0).mean())


@contextmanager
def dropout_on(network: nn.Module, rate: float) -> Iterator[int]:
    """Switch all dropout layers of a network on, at a rate, within the block; the rest stays in eval mode.

    Yields:
        The number of dropout layers.
    """
    layers = [module for module in network.modules() if isinstance(module, _DROPOUT)]
    before = [layer.p for layer in layers]
    for layer in layers:
        layer.p = rate
        layer.train()
    try:
        yield len(layers)
    finally:
        for layer, rate_before in zip(layers, before, strict=True):
            layer.p = rate_before
            layer.eval()


class EntropyScoring(ScoringMethod):
    """Score every unlabelled volume by :func:`soft_entropy`, once for each version of the adapter.

    A network without dropout layers (SegResNet as the bundles have it) is scored by the entropy of one prediction.

    Args:
        task: the inference of the bundle.
        samples: number of predictions of a volume, default 5.
        rate: probability of the dropout, default 0.1.
    """

    def __init__(self, task: AdapterInfer, samples: int = 5, rate: float = 0.1) -> None:
        super().__init__("Entropy of soft predictions under dropout")
        self.task = task
        self.samples = samples
        self.rate = rate

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score, and note in the datastore the score of each volume, or the reason why there is none.

        Raises:
            ValueError: if a field of the request is unknown or a value not valid.
        """
        request = scoring_record().check(request, "scoring")
        name = self.task.adapter_name(request)
        stamp = f"{self.task.get_path()} {self.task.adapters.current(name) if name != BASE else BASE}"
        images = datastore.get_unlabeled_images()
        new = [image for image in images if datastore.get_image_info(image).get(_STAMP) != stamp]
        device = name_to_device(request.get("device"))
        notes = [self._noted(image, name, device, stamp, datastore) for image in new]
        failed = sum(note[UNREADABLE] is not None for note in notes)
        _logger.info("scored %d of %d unlabelled volumes; %d failed", len(new) - failed, len(images), failed)
        return {"total": len(images), "executed": len(new) - failed, "failed": failed}

    def _noted(self, image: str, name: str, device: str, stamp: str, datastore: Datastore) -> dict[str, Any]:
        note: dict[str, Any] = {SCORE: None, _STAMP: stamp, UNREADABLE: None}
        try:
            note[SCORE] = self.score(datastore.get_image_uri(image), name, device)
        except (ValueError, RuntimeError, OSError, MemoryError) as error:  # one bad volume must not stop the others
            note[UNREADABLE] = one_line(error)[:256]
            _logger.warning("%s was not scored: %s", image, note[UNREADABLE])
        datastore.update_image_info(image, note)
        return note

    def score(self, path: str, adapter: str, device: str) -> float:
        """Compute the entropy of one volume."""
        data: dict[str, Any] = {"image": path, "image_path": path, "device": device}
        data = self.task.run_pre_transforms(data, self.task.pre_transforms(data))
        image = data["image"][None].to(device)
        inferer = self.task.inferer(data)
        with self.task.network_with(adapter, device) as network, dropout_on(network, self.rate) as layers:
            with torch.no_grad():
                runs = self.samples if layers else 1
                outputs = [inferer(image, network)[0].softmax(0).cpu() for _ in range(runs)]
        return soft_entropy(torch.stack(outputs))


class MostUncertain(Strategy):
    """Choose the unlabelled volume with the highest score.

    Volumes that were served within the last hour come after all others, and unreadable ones last.
    """

    def __init__(self) -> None:
        super().__init__("The volume that the network is least sure of")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return the volume with its score; None if every image has a label."""
        now = time.time()

        def rank(image: str) -> tuple[bool, bool, float, str]:
            info = datastore.get_image_info(image)
            served = info.get("strategy", {}).get(request["strategy"], {}).get("ts", 0)
            unreadable = info.get(UNREADABLE) is not None
            return unreadable, now - served < _SERVED_FOR, -(info.get(SCORE) or 0.0), image

        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not images:
            return None
        best = min(images, key=rank)
        return {"id": best, SCORE: datastore.get_image_info(best).get(SCORE)}
