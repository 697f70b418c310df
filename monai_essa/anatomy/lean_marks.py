# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What lean training leaves on a module: a forward pass of its own, and frozen weights in fewer bits.

Both sit beside the module's own attributes, so classes and state-dict keys stay as they are, and both come off again.
It lies below ``adapt`` because :func:`monai_essa.adapters.adaptation.merge` and adapter files want the plain network.
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
    """The forward pass that a module has while it is lean: a function with the module as its first argument.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> LeanForward(lambda layer, x: type(layer).forward(layer, x) * 0, layer).put_on()
        >>> layer(torch.ones(1, 2)).abs().sum().item()
        0.0
        >>> take_lean_off(layer)
    """

    def put_on(self) -> None:
        """Give the forward pass to the module."""
        vars(self.args[0])["forward"] = self


def store_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Store the frozen ``weight`` of a layer in fewer bits; the value that it had is kept on the CPU.

    The kept value follows the module to another number format: after ``network.double()`` the weight is the exact one
    in double precision, as if it had never been stored otherwise.

    Args:
        module: a layer whose ``weight`` does not learn; one that is stored so already is left alone.
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
    """Check, before a forward pass, that a weight that is stored in fewer bits does not learn.

    Raises:
        RuntimeError: if it learns since: its steps would be lost when the full-precision value comes back.
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
        step: what has to come before lean training, for the message.

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
    """Return the state dict with frozen weights as they were before they were stored in fewer bits.

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
    """Give every module its own forward pass and its frozen weight in full precision back; in place."""
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
    """Convert the kept value with the module; a weight that is no longer in fewer bits is restored."""
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
    """A state dict that is loaded while the weight is stored in fewer bits brings the new full-precision value."""
    new = state.get(f"{prefix}weight")
    stored: torch.Tensor = module.weight  # type: ignore[assignment]
    if new is not None and new.shape == stored.shape and not torch.equal(new.to(stored), stored):
        kept, hook = vars(module)[_KEPT]
        vars(module)[_KEPT] = (new.detach().to(kept, copy=True), hook)
