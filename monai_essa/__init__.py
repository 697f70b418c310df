# Copyright (c) The monai_essa authors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Adapt pretrained MONAI networks to unlabelled scans and few labels by training a few tensors only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from monai_essa.version import __version__

if TYPE_CHECKING:
    from monai_essa.adaptation import adapt, disable_adapter, merge
    from monai_essa.adapter_file import load_adapter, save_adapter
    from monai_essa.efficiency import lean
    from monai_essa.parameter_summary import summary
    from monai_essa.weights import load_weights

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
    "adapt": "adaptation",
    "disable_adapter": "adaptation",
    "lean": "efficiency",
    "load_adapter": "adapter_file",
    "load_weights": "weights",
    "merge": "adaptation",
    "save_adapter": "adapter_file",
    "summary": "parameter_summary",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
