# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapt pretrained MONAI networks to unlabelled scans and few labels by training a few tensors only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_essa.adapters.adaptation import adapt, disable_adapter, merge
    from monai_essa.adapters.file import load_adapter, save_adapter
    from monai_essa.adapters.summary import summary
    from monai_essa.efficiency import lean
    from monai_essa.weights import load_weights

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "adapt",
    "disable_adapter",
    "lean",
    "load_adapter",
    "load_weights",
    "merge",
    "save_adapter",
    "summary",
]

# Imported at the first use, so that `monai-essa --help` need not wait for torch and MONAI.
_MODULE_OF = {
    "adapt": "adapters.adaptation",
    "disable_adapter": "adapters.adaptation",
    "lean": "efficiency",
    "load_adapter": "adapters.file",
    "load_weights": "weights",
    "merge": "adapters.adaptation",
    "save_adapter": "adapters.file",
    "summary": "adapters.summary",
}


if not TYPE_CHECKING:  # a type checker would take every name for one that this gives

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
