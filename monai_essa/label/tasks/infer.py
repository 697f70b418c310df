# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Inference by a bundle with the adapter that a request names; the network is loaded once, and adapters are switched.

The adapters that were read last stay in memory, so that alternating between sites reads no file.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.nn as nn
from fastapi import HTTPException
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.others.generic import name_to_device

from monai_essa.adapters.adaptation import disable_adapter
from monai_essa.adapters.adapted import is_adapted
from monai_essa.adapters.named import active_adapter, adapter_names, add_adapter, remove_adapter, set_adapter
from monai_essa.error_line import one_line
from monai_essa.label.requests import infer_record
from monai_essa.label.store import BASE, LATEST, AdapterStore
from monai_essa.outside import shown

__all__ = ["AdapterInfer", "UnreadableStudy"]

_KEPT = 4  # adapters in memory for each device; a full tuning's is as large as its encoder


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
