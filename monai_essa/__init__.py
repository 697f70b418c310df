# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapt pretrained MONAI networks to unlabelled scans and few labels by training a few tensors only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_essa.adapters.adaptation import adapt, disable_adapter, merge
    from monai_essa.adapters.file import load_adapter, save_adapter
    from monai_essa.adapters.named import active_adapter, adapter_names, add_adapter, remove_adapter, set_adapter
    from monai_essa.adapters.state import adapter_state_dict, load_adapter_state_dict
    from monai_essa.adapters.summary import summary
    from monai_essa.efficiency import lean
    from monai_essa.methods import (
        APLA,
        SSF,
        VPT,
        AdaptFormer,
        BitFit,
        ComponentTuning,
        FullTuning,
        HeadOnly,
        LoRA,
        NormTuning,
        PeftLibrary,
    )
    from monai_essa.weights import load_weights

__version__ = "0.1.0"

__all__ = [
    "APLA",
    "AdaptFormer",
    "BitFit",
    "ComponentTuning",
    "FullTuning",
    "HeadOnly",
    "LoRA",
    "NormTuning",
    "PeftLibrary",
    "SSF",
    "VPT",
    "__version__",
    "active_adapter",
    "adapt",
    "adapter_names",
    "adapter_state_dict",
    "add_adapter",
    "disable_adapter",
    "lean",
    "load_adapter",
    "load_adapter_state_dict",
    "load_weights",
    "merge",
    "remove_adapter",
    "save_adapter",
    "set_adapter",
    "summary",
]

# Imported at the first use, so that `monai-essa --help` need not wait for torch and MONAI. The other names are methods.
_MODULE_OF = {
    "active_adapter": "adapters.named",
    "adapt": "adapters.adaptation",
    "adapter_names": "adapters.named",
    "adapter_state_dict": "adapters.state",
    "add_adapter": "adapters.named",
    "disable_adapter": "adapters.adaptation",
    "lean": "efficiency",
    "load_adapter": "adapters.file",
    "load_adapter_state_dict": "adapters.state",
    "load_weights": "weights",
    "merge": "adapters.adaptation",
    "remove_adapter": "adapters.named",
    "save_adapter": "adapters.file",
    "set_adapter": "adapters.named",
    "summary": "adapters.summary",
}


if not TYPE_CHECKING:  # a type checker would accept every name as one that the package has

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'methods')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
