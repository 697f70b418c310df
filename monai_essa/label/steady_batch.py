# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Inference on many images: one that cannot be read does not end it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

__all__ = ["SteadyBatch"]

_logger = logging.getLogger(__name__)


class SteadyBatch(BatchInferTask):
    """MONAI Label's batch inference, which goes on after an image that is refused, and runs on a CPU too."""

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> dict[str, Any]:
        """Infer on each image, and return the results by image id; ``error`` has the reason where there is none."""

        def tried(one: dict[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                return dict(infer(one, store))
            except HTTPException as error:
                _logger.warning("%s: %s", one["image"], error.detail)
                return {"error": error.detail}

        if not torch.cuda.is_available():
            request = request | {"multi_gpu": False}  # MONAI Label divides the images by the number of GPUs
        return dict(super().__call__(request, datastore, tried))
