# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapt pretrained MONAI networks to unlabelled scans and few labels by training a few tensors only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from monai_essa.version import __version__

if TYPE_CHECKING:
    from monai_essa.adaptation import adapt, disable_adapter, merge
    from monai_essa.adapter_file import load_adapter, save_adapter
    from monai_essa.adapter_state import adapter_state_dict, load_adapter_state_dict
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
    from monai_essa.named_adapters import active_adapter, adapter_names, add_adapter, remove_adapter, set_adapter
    from monai_essa.parameter_summary import summary
    from monai_essa.weights import load_weights

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


_METHODS = (
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
)
# Imported at the first use, so that `monai-essa --help` need not wait for torch and MONAI.
_MODULE_OF = {
    **dict.fromkeys(_METHODS, "methods"),
    "active_adapter": "named_adapters",
    "adapt": "adaptation",
    "adapter_names": "named_adapters",
    "adapter_state_dict": "adapter_state",
    "add_adapter": "named_adapters",
    "disable_adapter": "adaptation",
    "lean": "efficiency",
    "load_adapter": "adapter_file",
    "load_adapter_state_dict": "adapter_state",
    "load_weights": "weights",
    "merge": "adaptation",
    "remove_adapter": "named_adapters",
    "save_adapter": "adapter_file",
    "set_adapter": "named_adapters",
    "summary": "parameter_summary",
}


if not TYPE_CHECKING:  # a type checker would accept every name as one that the package has

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
