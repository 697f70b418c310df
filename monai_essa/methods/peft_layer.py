# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A layer of the peft package under the names of the plain layer that it stands for."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn as nn

from monai_essa.methods.method import NotMergeable

__all__ = ["PeftLayer"]


class PeftLayer(nn.Module):
    """Holds a layer of the peft package such that ``weight`` and ``bias`` keep their path.

    peft itself moves them to ``base_layer.weight`` and ``base_layer.bias``. Here they stay, with peft's own containers
    (``lora_A``, ``ia3_l``, ...) beside them. The peft layer computes, but is no child: it would add the other names.

    Args:
        layer: a tuner layer of the peft package with one adapter; its tensors are shared, not copied.

    Raises:
        ValueError: if the layer keeps tensors of its own outside containers.

    Example:
        >>> from peft import LoraConfig, inject_adapter_in_model
        >>> net = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), nn.Sequential(nn.Linear(4, 6)))
        >>> list(PeftLayer(net[0]).state_dict())
        ['weight', 'bias', 'lora_A.default.weight', 'lora_B.default.weight']
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        own = [*layer._parameters, *layer._buffers]
        if own:
            raise ValueError(f"{type(layer).__name__} of peft keeps '{own[0]}' outside containers; use another method")
        base = layer.get_base_layer()
        self.peft_layer: Any
        object.__setattr__(self, "peft_layer", layer)
        # One dictionary for both: who replaces a tensor here (torch.func, torch.export) replaces it where it computes.
        self._parameters = base._parameters
        self._buffers = base._buffers
        for name, child in layer.named_children():
            if child is not base:
                self.add_module(name, child)
        self.register_load_state_dict_pre_hook(_follow_new_base)
        self.train(base.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what the peft layer computes."""
        return self.peft_layer(x)

    def train(self, mode: bool = True) -> PeftLayer:
        """Set the mode of the peft layer too: some of them ask for their own flag."""
        super().train(mode)
        self.peft_layer.train(mode)
        return self

    def plain(self) -> nn.Module:
        """Give the pretrained layer, sharing its tensors."""
        return self.peft_layer.get_base_layer()

    def merged(self) -> nn.Module:
        """Give a plain layer into which peft has merged the adapter.

        Raises:
            NotMergeable: if peft cannot.
        """
        twin = copy.deepcopy(self.peft_layer)
        try:
            twin.merge(safe_merge=True)
        except (NotImplementedError, RuntimeError, ValueError) as error:
            first = str(error).partition("\n")[0]
            raise NotMergeable(
                f"{type(twin).__name__} of peft cannot be merged into {self.plain()} ({first}); "
                "trace or torch.export the adapted network in eval mode, it is an ordinary nn.Module"
            ) from error
        return twin.get_base_layer()

    def extra_repr(self) -> str:
        """Say which layer of peft computes, on which plain layer."""
        kind = type(self.peft_layer)
        return f"{kind.__module__}.{kind.__name__} on {self.plain()}"


def _follow_new_base(layer: Any, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """When a plain state dict is loaded, DoRA's magnitudes start from the new weight, as they did at injection."""
    vectors = getattr(layer, "lora_magnitude_vector", None)
    weight = state.get(f"{prefix}weight")
    if not vectors or weight is None or f"{prefix}lora_magnitude_vector.default.weight" in state:
        return
    twin = copy.deepcopy(layer.peft_layer)
    base = twin.get_base_layer()
    if weight.shape != base.weight.shape:
        return  # the loading itself says so
    base.weight.data = weight.detach().to(base.weight)
    matrices = {name: getattr(twin, name)["default"].weight for name in ("lora_A", "lora_B")}
    magnitude = twin.lora_magnitude_vector["default"]
    magnitude.update_layer(base_layer=base, scaling=twin.scaling["default"], **matrices)
    with torch.no_grad():
        vectors["default"].weight.copy_(magnitude.weight)
