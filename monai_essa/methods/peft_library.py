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

from monai_essa.anatomy.parts import dead_parameters, encoder_prefix, encoder_trunk, part_of
from monai_essa.methods.method import NotMergeable
from monai_essa.methods.peft_config import peft_config, peft_package, plain_values

__all__ = ["PeftLayer", "PeftLibrary"]

_USUAL = (nn.Linear, nn.Conv2d, nn.Conv3d)
# What peft raises on layers that it cannot place.
_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class PeftLibrary:
    """A method of the peft package on layers of the encoder: LoRA, DoRA, IA3 and others that work layer by layer.

    peft makes the layers and computes in them; this package defines their names, files and merging. The config decides
    whether the network starts at its base; with peft's defaults it does for LoRA, DoRA and IA3.

    Args:
        config: a config of peft, or its values as a mapping with ``peft_type``. The values that differ from peft's
            defaults are stored. Only plain values of types that work layer by layer are allowed, because peft would
            import or open what others name. peft matches ``target_modules`` against names **within the encoder**
            (``blocks.0.attn.qkv``), so that a config moves from a ViT to a UNETR.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the config has another type or field, if peft refuses it, or if it trains more than the layers of
            peft.

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
        peft_config(self.config)  # raises now if peft refuses it

    def claims(self, network: nn.Module) -> set[str]:
        """Return the name of the weight of each layer that peft matches in the encoder; biases stay free.

        Raises:
            ValueError: if nothing is matched, or something that is not a layer in use of the encoder.
        """
        prefix, encoder, dead = encoder_prefix(network), encoder_trunk(network), dead_parameters(network)
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
        """Let peft make its layers on a copy, insert them as :class:`PeftLayer`, and return the names of what learns.

        Raises:
            ValueError: if peft refuses a layer, or its initialisation alters pretrained weights.
        """
        prefix, encoder = encoder_prefix(network), encoder_trunk(network)
        paths = sorted(name.removeprefix(prefix).removesuffix(".weight") for name in self.claims(network))
        scratch = _copy_of(encoder, paths)
        # peft makes its tensors on the CPU and moves them; on a network without storage, nothing may be allocated.
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
    """Hold a layer of the peft package so that ``weight`` and ``bias`` keep their path.

    peft itself moves them to ``base_layer.weight`` and ``base_layer.bias``. Here they stay, with peft's own containers
    (``lora_A``, ``ia3_l``, ...) beside them. The peft layer computes but is not a child, which would add its names.

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
        # Shared, so that a tensor that is replaced here (torch.func, torch.export) is replaced in the peft layer.
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
        """Set the mode of the peft layer too, because some layers check their own flag."""
        super().train(mode)
        self.peft_layer.train(mode)
        return self

    def plain(self) -> nn.Module:
        """Return the pretrained layer, sharing its tensors."""
        return self.peft_layer.get_base_layer()

    def merged(self) -> nn.Module:
        """Return a plain layer into which peft has merged the adapter.

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
        """Return the class of the peft layer and its plain layer."""
        kind = type(self.peft_layer)
        return f"{kind.__module__}.{kind.__name__} on {self.plain()}"


def _copy_of(encoder: nn.Module, paths: list[str]) -> nn.Module:
    """Copy an encoder with its own tensors in these layers; the others, which peft does not use, are shared."""
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
    """Return the names of what peft made trainable in its own containers."""
    return {
        f"{child}.{name}"
        for child, module in layer.named_children()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _follow_new_base(layer: Any, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Restart DoRA's magnitudes from the new weight when a plain state dict is loaded."""
    vectors = getattr(layer, "lora_magnitude_vector", None)
    weight = state.get(f"{prefix}weight")
    if not vectors or weight is None or f"{prefix}lora_magnitude_vector.default.weight" in state:
        return
    twin = copy.deepcopy(layer.peft_layer)
    base = twin.get_base_layer()
    if weight.shape != base.weight.shape:
        return  # torch itself raises the error
    base.weight.data = weight.detach().to(base.weight)
    matrices = {name: getattr(twin, name)["default"].weight for name in ("lora_A", "lora_B")}
    magnitude = twin.lora_magnitude_vector["default"]
    magnitude.update_layer(base_layer=base, scaling=twin.scaling["default"], **matrices)
    with torch.no_grad():
        vectors["default"].weight.copy_(magnitude.weight)
