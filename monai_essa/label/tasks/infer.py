# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Inference by a bundle with the adapter that a request names, and active learning by its uncertainty.

The network is loaded once, and adapters are switched. Those that were read last stay in memory, so that alternating
between sites reads no file. The uncertainty of a volume is measured with dropout at inference.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.others.generic import name_to_device

from monai_essa.adapters.adaptation import disable_adapter
from monai_essa.adapters.adapted import is_adapted
from monai_essa.adapters.named import active_adapter, adapter_names, add_adapter, remove_adapter, set_adapter
from monai_essa.error_line import one_line
from monai_essa.label.requests import infer_record, scoring_record
from monai_essa.label.store import BASE, LATEST, AdapterStore
from monai_essa.label.studies import SCORE, UNREADABLE
from monai_essa.outside import shown

__all__ = ["AdapterInfer", "EntropyScoring", "MostUncertain", "UnreadableStudy", "dropout_on", "soft_entropy"]

_KEPT = 4  # adapters in memory for each device; a full tuning's is as large as its encoder
_logger = logging.getLogger(__name__)
_STAMP = "epistemic_stamp"  # what the score was computed with
_SERVED_FOR = 3600  # seconds during which the next reader gets another volume
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class UnreadableStudy(ValueError):
    """Say in one line why the bundle cannot segment an image."""


class AdapterInfer(BundleInferTask):
    """Infer by a bundle with the adapter of a request: a site's name, ``base`` or ``latest``, which is the default.

    Args:
        bundle: the bundle's folder.
        conf: settings of the server.
        adapters: the adapters to choose from.
    """

    def __init__(self, bundle: Path, conf: dict[str, str], adapters: AdapterStore) -> None:
        super().__init__(str(bundle), conf, load_strict=True)
        self.adapters = adapters
        self._config.pop("model_filename", None)
        self._channels = _in_channels(bundle)
        self._one_at_a_time = threading.RLock()  # the network is changed in place

    def config(self) -> dict[str, Any]:
        """Offer the adapters; a client shows the first as its default and may keep it after a training."""
        return super().config() | {"adapter": [LATEST, *self.adapters.names(), BASE]}

    def adapter_name(self, request: dict[str, Any]) -> str:
        """Return the name of the adapter that a request wants: a site's name or ``base``.

        Raises:
            HTTPException: with status 404 if there is none of that name.
        """
        choices = [*self.adapters.names(), BASE]
        wanted = request.get("adapter") or LATEST
        name = wanted[0] if isinstance(wanted, list) else wanted
        if name != LATEST and name not in choices:
            raise HTTPException(404, f"adapter {shown(name)}: expected one of {', '.join([LATEST, *choices])}")
        return choices[0] if name == LATEST else name

    def checked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request after a check of all its values.

        Raises:
            ValueError: if a field is unknown or a value not valid.
        """
        return infer_record(self._config, self.labels).check(request, "inference")

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[str | None, dict[str, Any]]:
        """Infer, and add the adapter and its version to the result.

        Raises:
            HTTPException: with status 400 for a wrong request, 404 for an unknown adapter, 422 for an image that cannot
                be segmented, and 409 for an adapter that cannot be used.
        """
        try:
            request = self.checked(request)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        name = self.adapter_name(request)
        with self._one_at_a_time:
            adapter = self.adapters.current(name)
            try:
                file, params = super().__call__(request | {"adapter": name}, callbacks)
            except UnreadableStudy as error:
                raise HTTPException(422, str(error)) from error
        return file, params | {"adapter": name, "adapter_version": int(adapter.stem) if adapter else 0}

    def run_pre_transforms(self, data: dict[str, Any], transforms: Sequence[Callable[..., Any]]) -> dict[str, Any]:
        """Read and prepare an image.

        Raises:
            UnreadableStudy: if that fails, or the image is not of the bundle's number of channels and dimensions.
        """
        name = Path(str(data.get("image_path", "image"))).name
        try:
            data = super().run_pre_transforms(data, transforms)
        except Exception as error:  # readers and transforms raise errors of any kind
            raise UnreadableStudy(f"{name}: cannot be read as an image of this model: {one_line(error)}") from error
        shape, channels = tuple(data["image"].shape), self._channels
        if shape[0] != channels or len(shape) != 1 + self.dimension:
            raise UnreadableStudy(
                f"{name}: expected a {self.dimension}-D image with {channels} channel(s), got {shape[0]} channel(s) of "
                f"shape {shape[1:]}"
            )
        return data

    def run_inferer(self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cuda") -> dict[str, Any]:
        """Run the network with the adapter of the request."""
        with self.network_with(data["adapter"], device):
            return super().run_inferer(data, convert_to_batch, device)

    @contextmanager
    def network_with(self, name: str, device: str | None = None) -> Iterator[nn.Module]:
        """Yield the network of a device, switched to an adapter or, for ``base``, to none within the block."""
        device = name_to_device(device)
        with self._one_at_a_time:
            network = self._get_network(device, None)
            file = self.adapters.current(name)
            if file is not None:
                yield _switched(network, file)
            elif is_adapted(network):
                with disable_adapter(network):
                    yield network
            else:
                yield network

    def _get_network(self, device: str, data: Any) -> nn.Module:
        return super()._get_network(device, None)  # a request names an adapter, never a file


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


def _switched(network: nn.Module, file: Path) -> nn.Module:
    """Switch to the adapter of a file, which is read unless it is in memory already.

    Raises:
        HTTPException: with status 409 if the adapter cannot be used; the network is then as it was.
    """
    name = f"{file}, {file.stat().st_mtime_ns}"  # a file that was replaced is another adapter
    try:
        if name not in adapter_names(network):
            add_adapter(network, name, file)
        set_adapter(network, name)
    except ValueError as error:
        raise HTTPException(409, f"the adapter cannot be used: {one_line(error)}") from error
    for oldest in adapter_names(network)[:-_KEPT]:
        if oldest != active_adapter(network):
            remove_adapter(network, oldest)
    return network


def _in_channels(bundle: Path) -> int:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return int(next(iter(metadata["network_data_format"]["inputs"].values()))["num_channels"])
