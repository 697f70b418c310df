# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""PeftLibrary: layers of the peft package in a MONAI network, under the plain names of its tensors."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from monai_essa.anatomy.parts import dead_parameters, encoder_prefix, part_of
from monai_essa.methods.method import NotMergeable
from monai_essa.methods.peft_config import peft_config, peft_package, plain_values

__all__ = ["PeftLayer", "PeftLibrary"]

_USUAL = (nn.Linear, nn.Conv2d, nn.Conv3d)
# What peft raises on layers that it cannot place.
_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class PeftLibrary:
    """A method of the peft package on layers of the encoder: LoRA, DoRA, IA3 and those that work by layers like them.

    peft makes the layers and computes in them; their names, files and merging are those of this package.
    Whether the network starts at its base is up to the config: by peft's defaults it does with LoRA, DoRA and IA3.

    Args:
        config: a config of peft, or its values as a mapping with ``peft_type``. Kept as plain values: those that differ
            from peft's defaults, which must be plain values of a type that works by layers: peft would import or open
            what some others name. ``target_modules`` is matched by peft against names **within the encoder**
            (``blocks.0.attn.qkv``), so that a config moves from a ViT to a UNETR.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the config has a type or a field that is none of these, peft refuses it, or it trains more than
            the layers of peft.

    Example:
        >>> from monai.networks.nets import ViT
        >>> from peft import LoraConfig
        >>> from monai_essa import adapt
        >>> net = ViT(1, 32, 16, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4)
        >>> method = PeftLibrary(LoraConfig(r=4, target_modules=["linear1"], use_dora=True))
        >>> sum(p.numel() for p in adapt(net, method).parameters() if p.requires_grad)  # 2 x (4 x (48 + 96) + 96)
        1344
    """

    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", plain_values(self.config))
        peft_config(self.config)  # what peft refuses, it refuses now

    def claims(self, network: nn.Module) -> set[str]:
        """Name the weight of each layer that peft's own matching finds in the encoder; biases stay free.

        Raises:
            ValueError: if no layer is found, or something that is no used layer of the encoder.
        """
        prefix, encoder, dead = encoder_prefix(network), _encoder(network), dead_parameters(network)
        targets, kind = self.config["target_modules"], type(network).__name__
        found = self._matches(encoder)
        if not found:
            names = ", ".join(path for path, module in encoder.named_modules() if isinstance(module, _USUAL))
            raise ValueError(
                f"target_modules {targets!r} match no layer in the encoder of {kind}; names there are {names[:120]} ..."
            )
        for path in found:
            layer, weight = encoder.get_submodule(path), f"{prefix}{path}.weight"
            if "weight" not in layer._parameters or weight in dead or part_of(network, weight) != "encoder":
                raise ValueError(
                    f"target_modules {targets!r} match '{path}' ({type(layer).__name__}), no used layer of the encoder "
                    f"of {kind}; write longer names or leave it out by exclude_modules"
                )
        return {f"{prefix}{path}.weight" for path in found}

    def inject(self, network: nn.Module) -> set[str]:
        """Let peft make its layers on a copy, put them in as :class:`PeftLayer`, and name what peft trains in them.

        Raises:
            ValueError: if peft refuses a layer, or its initialisation alters pretrained weights.
        """
        prefix, encoder = encoder_prefix(network), _encoder(network)
        paths = sorted(name.removeprefix(prefix).removesuffix(".weight") for name in self.claims(network))
        scratch = _copy_of(encoder, paths)
        # peft makes its tensors on the CPU and moves them; on a network without storage nothing is to be allocated.
        shapes_only = any(parameter.is_meta for parameter in scratch.parameters())
        try:
            with torch.device("meta") if shapes_only else nullcontext():
                peft_package().inject_adapter_in_model(peft_config(self.config), scratch)
        except (TypeError, ValueError, *_REFUSALS) as error:
            first = str(error).partition("\n")[0]
            raise ValueError(f"peft cannot place {dict(self.config)}: {first}") from error
        _check_unaltered(scratch, encoder, paths)
        learning = set()
        for path in paths:
            made = scratch.get_submodule(path)
            made.base_layer = encoder.get_submodule(path)
            layer = PeftLayer(made)
            network.set_submodule(prefix + path, layer)
            learning |= {f"{prefix}{path}.{name}" for name in _learned(layer)}
        return learning

    def _matches(self, encoder: nn.Module) -> list[str]:
        matches = importlib.import_module("peft.tuners.tuners_utils").check_target_module_exists
        config = peft_config(self.config)
        return [path for path, _ in encoder.named_modules() if path and matches(config, path)]


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


def _encoder(network: nn.Module) -> nn.Module:
    return network.get_submodule(encoder_prefix(network).rstrip("."))


def _copy_of(encoder: nn.Module, paths: list[str]) -> nn.Module:
    """Copy the tensors of these layers only; the others, which peft does not touch, keep their storage."""
    copied = {id(tensor) for path in paths for tensor in encoder.get_submodule(path).parameters()}
    shared = {
        id(tensor): nn.Parameter(tensor.detach(), tensor.requires_grad)
        for tensor in encoder.parameters()
        if id(tensor) not in copied
    }
    return copy.deepcopy(encoder, shared)


def _check_unaltered(scratch: nn.Module, encoder: nn.Module, paths: list[str]) -> None:
    for path in paths:
        now = scratch.get_submodule(path).get_base_layer().parameters()  # type: ignore[operator]
        before = encoder.get_submodule(path).parameters()
        if not all(a.is_meta or torch.equal(a, b) for a, b in zip(now, before, strict=True)):
            raise ValueError(
                f"this initialisation of peft alters the pretrained weights of '{path}', which stay frozen here; "
                "choose one that leaves them, such as init_lora_weights=True"
            )


def _learned(layer: PeftLayer) -> set[str]:
    """What peft made trainable in its own containers."""
    return {
        f"{child}.{name}"
        for child, module in layer.named_children()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


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
