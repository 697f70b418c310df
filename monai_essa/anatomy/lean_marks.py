# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What lean training leaves on a module: its own forward pass, and frozen weights in fewer bits.

Both are kept beside the module's own attributes, so classes and state-dict keys do not change, and both can be removed.
They are in this room because :func:`monai_essa.adapters.adaptation.merge` and adapter files need the plain network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn as nn
from torch.utils.hooks import RemovableHandle

__all__ = ["LeanForward", "check_not_lean", "check_still_frozen", "plain_state", "store_frozen", "take_lean_off"]

_KEPT = "_monai_essa_full_precision"
_CONVERTED = "_apply"  # through which nn.Module.to(), double() and the like convert the tensors of a module


class LeanForward(functools.partial[Any]):
    """The forward pass of a lean module: a function with the module as its first argument.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> LeanForward(lambda layer, x: type(layer).forward(layer, x) * 0, layer).put_on()
        >>> layer(torch.ones(1, 2)).abs().sum().item()
        0.0
        >>> take_lean_off(layer)
    """

    def put_on(self) -> None:
        """Replace the forward pass of the module."""
        vars(self.args[0])["forward"] = self


def store_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Store the frozen ``weight`` of a layer in fewer bits; the original value is kept on the CPU.

    The kept value follows the module to another number format: after ``network.double()`` the weight is exactly what it
    would be in double precision had it never been stored in fewer bits.

    Args:
        module: a layer whose ``weight`` does not learn; one that is stored in fewer bits already is not changed.
        dtype: for example ``torch.bfloat16``.
    """
    weight = module.weight
    if not isinstance(weight, nn.Parameter) or weight.requires_grad or _KEPT in vars(module):
        return
    hook = module.register_load_state_dict_pre_hook(_follow_loaded)
    vars(module)[_KEPT] = (weight.detach().to("cpu", copy=True), hook)
    vars(module)[_CONVERTED] = functools.partial(_follow_converted, module)
    weight.data = weight.data.to(dtype)


def check_still_frozen(module: nn.Module) -> None:
    """Check before a forward pass that a weight that is stored in fewer bits does not learn.

    Raises:
        RuntimeError: if it learns: its updates would be lost when the full-precision value is restored.
    """
    if _KEPT in vars(module) and module.weight.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"the weight of {type(module).__name__}({module.extra_repr()}) learns, but lean(frozen_dtype=...) stored "
            f"it as {str(module.weight.dtype).removeprefix('torch.')} while it was frozen; call lean again after "
            "what learns was changed"
        )


def check_not_lean(network: nn.Module, step: str) -> None:
    """Check that no part of a network is lean.

    Args:
        network: any module.
        step: name of the step that has to come before lean training, for the message.

    Raises:
        ValueError: if a module of it is lean.

    Example:
        >>> check_not_lean(nn.Linear(2, 2), "adapt")
    """
    if any(_KEPT in vars(module) or _is_lean(module) for module in network.modules()):
        raise ValueError(
            f"{type(network).__name__} is lean, and lean comes after {step}; call lean(network, off=True), "
            f"then {step}, then lean again"
        )


def plain_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict with the original values of frozen weights that are stored in fewer bits.

    Example:
        >>> layer = nn.Linear(2, 2).requires_grad_(False)
        >>> store_frozen(layer, torch.bfloat16)
        >>> layer.weight.dtype, plain_state(layer)["weight"].dtype
        (torch.bfloat16, torch.float32)
    """
    state: dict[str, torch.Tensor] = dict(network.state_dict())
    for path, _, (weight, _) in _stored(network):
        state[f"{path}.weight" if path else "weight"] = weight
    return state


def take_lean_off(network: nn.Module) -> None:
    """Restore, in place, the forward pass and the full-precision weight of every module."""
    for module in network.modules():
        if _is_lean(module):
            del vars(module)["forward"]
    for _, module, _ in _stored(network):
        _restore(module)


def _is_lean(module: nn.Module) -> bool:
    return isinstance(vars(module).get("forward"), LeanForward)


def _restore(module: nn.Module) -> None:
    weight, hook = vars(module).pop(_KEPT)
    stored: torch.Tensor = module.weight.data  # type: ignore[assignment]
    module.weight.data = weight.to(stored.device)
    hook.remove()
    del vars(module)[_CONVERTED]


def _follow_converted(module: nn.Module, convert: Callable[[torch.Tensor], torch.Tensor], *args: Any) -> nn.Module:
    """Convert the kept value with the module, and restore a weight that is no longer in fewer bits."""
    before = module.weight.dtype
    type(module)._apply(module, convert, *args)
    weight, hook = vars(module)[_KEPT]
    converted = convert(weight)
    vars(module)[_KEPT] = (converted if converted.is_meta else converted.cpu(), hook)
    if module.weight.dtype != before:
        _restore(module)
    return module


def _stored(network: nn.Module) -> Iterator[tuple[str, nn.Module, tuple[torch.Tensor, RemovableHandle]]]:
    yield from [
        (path, module, vars(module)[_KEPT]) for path, module in network.named_modules() if _KEPT in vars(module)
    ]


def _follow_loaded(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Take the new full-precision value from a state dict that is loaded while the weight is in fewer bits."""
    new = state.get(f"{prefix}weight")
    stored: torch.Tensor = module.weight  # type: ignore[assignment]
    if new is not None and new.shape == stored.shape and not torch.equal(new.to(stored), stored):
        kept, hook = vars(module)[_KEPT]
        vars(module)[_KEPT] = (new.detach().to(kept, copy=True), hook)
