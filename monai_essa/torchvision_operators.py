# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Make torchvision importable where it is a CUDA build beside a CPU build of torch.

MONAI Label imports torchvision for two functions that draw, and timm for the transforms of its data; neither uses the
compiled operators.
"""

from __future__ import annotations

import torch

__all__ = ["declare_operators"]

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # an operator lives as long as its library


def declare_operators() -> None:
    """Declare the operators that torchvision registers shapes for on import, if its own library fails to load."""
    try:
        import torchvision  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except RuntimeError:  # operator torchvision::nms does not exist
        library = torch.library.Library("torchvision", "FRAGMENT")  # noqa: TOR901
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(schema)
        _libraries.append(library)
