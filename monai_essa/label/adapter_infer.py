# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Inference by a bundle with the adapter that a request names, swapped in without loading the network again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.nn as nn
from fastapi import HTTPException
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.others.generic import name_to_device

from monai_essa.adaptation import disable_adapter
from monai_essa.adapter_file import load_adapter, read_adapter
from monai_essa.label.adapter_store import BASE, LATEST, AdapterStore

__all__ = ["AdapterInfer"]


class AdapterInfer(BundleInferTask):
    """A bundle's inference; ``adapter`` in the request is a site's name, ``base`` or ``latest``, which is the default.

    Args:
        bundle: the bundle's folder.
        conf: of the server.
        adapters: what is chosen from.
    """

    def __init__(self, bundle: Path, conf: dict[str, str], adapters: AdapterStore) -> None:
        super().__init__(str(bundle), conf, load_strict=True)
        self.adapters = adapters
        self._config.pop("model_filename", None)
        self._one_at_a_time = threading.RLock()  # the network is changed in place
        self._loaded: dict[str, tuple[nn.Module, Path, Any]] = {}

    def config(self) -> dict[str, Any]:
        """Offer the adapters; a client shows the first as its default, and may keep to it after a training."""
        return super().config() | {"adapter": [LATEST, *self.adapters.names(), BASE]}

    def adapter_name(self, request: dict[str, Any]) -> str:
        """Read which adapter a request wants: a site's name, or ``base``.

        Raises:
            HTTPException: with status 404 if there is none of that name.
        """
        choices = [*self.adapters.names(), BASE]
        wanted = request.get("adapter") or LATEST
        name = wanted[0] if isinstance(wanted, list) else wanted
        if name != LATEST and name not in choices:
            raise HTTPException(404, f"adapter {name!r}: expected one of {', '.join([LATEST, *choices])}")
        return choices[0] if name == LATEST else name

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[str | None, dict[str, Any]]:
        """Infer, and say in the result which adapter and version did."""
        name = self.adapter_name(request)
        with self._one_at_a_time:
            adapter = self.adapters.current(name)
            file, params = super().__call__(dict(request) | {"adapter": name}, callbacks)
        return file, params | {"adapter": name, "adapter_version": int(adapter.stem) if adapter else 0}

    def run_inferer(self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cuda") -> dict[str, Any]:
        """Run the network with the adapter of the request in."""
        with self.network_with(data["adapter"], device):
            return super().run_inferer(data, convert_to_batch, device)

    @contextmanager
    def network_with(self, name: str, device: str | None = None) -> Iterator[nn.Module]:
        """Within the block the network of a device computes with an adapter, or with none."""
        device = name_to_device(device)
        with self._one_at_a_time:
            network = self._get_network(device, None)
            file = self.adapters.current(name)
            if file is not None:
                yield self._swapped(network, file, device)
            elif self._adapted(network, device):
                with disable_adapter(network):
                    yield network
            else:
                yield network

    def _get_network(self, device: str, data: Any) -> nn.Module:
        return super()._get_network(device, None)  # a request names an adapter, never a file

    def _swapped(self, network: nn.Module, file: Path, device: str) -> nn.Module:
        methods = read_adapter(file).record["methods"]
        if self._adapted(network, device):
            _, there, known = self._loaded[device]
            if there == file:
                return network
            if known != methods:  # only a fresh base can be adapted by other methods
                self._networks.pop(device)
                network = self._get_network(device, None)
        load_adapter(network, file)
        self._loaded[device] = (network, file, methods)
        return network.eval()

    def _adapted(self, network: nn.Module, device: str) -> bool:
        return device in self._loaded and self._loaded[device][0] is network
