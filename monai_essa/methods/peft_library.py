# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Methods of the peft package. Needs the extra [peft], which is imported when a method is made."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn as nn

from monai_essa.methods.peft_layer import PeftLayer
from monai_essa.network_parts import dead_parameters, encoder_prefix, part_of

__all__ = ["PeftLibrary"]

_USUAL = (nn.Linear, nn.Conv2d, nn.Conv3d)
# What peft would do outside of its layers, and how to say it here.
_ELSEWHERE = {
    "modules_to_save": "name these tensors in also_train",
    "bias": "add BitFit() or name the biases in also_train",
    "target_parameters": "name layers in target_modules",
    "trainable_token_indices": "name layers in target_modules",
    "layer_replication": "build the network with the depth that you want",
}


@dataclass(frozen=True)
class PeftLibrary:
    """A method of the peft package on layers of the encoder: LoRA, DoRA, IA3 and those that work by layers like them.

    peft makes the layers and computes in them; their names, files and merging are those of this package.
    Whether the network starts at its base is up to the config: by peft's defaults it does with LoRA, DoRA and IA3.

    Args:
        config: a config of peft, or its values as a mapping with ``peft_type``. Kept as plain values: those that differ
            from peft's defaults. ``target_modules`` is matched by peft against names **within the encoder**
            (``blocks.0.attn.qkv``), so that a config moves from a ViT to a UNETR.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if peft refuses the config, or it trains more than the layers of peft.

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
        config = _peft_config(self.config) if isinstance(self.config, Mapping) else self.config
        object.__setattr__(self, "config", _plain_values(config))
        for name in _ELSEWHERE.keys() & self.config.keys():
            raise ValueError(
                f"PeftLibrary trains layers of peft only, got {name}={self.config[name]!r}; {_ELSEWHERE[name]}"
            )
        if "target_modules" not in self.config:
            raise ValueError(
                f"{self.config['peft_type']} config without target_modules; name layers of the encoder there"
            )

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
                _peft().inject_adapter_in_model(_peft_config(self.config), scratch)
        except (NotImplementedError, TypeError, ValueError) as error:
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
        config = _peft_config(self.config)
        return [path for path, _ in encoder.named_modules() if path and matches(config, path)]


def _peft() -> ModuleType:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError('PeftLibrary needs the peft package: pip install "monai_essa[peft]"') from error


def _peft_config(values: Mapping[str, Any]) -> Any:
    peft = _peft()
    if "peft_type" not in values:
        raise ValueError(f"a config of peft needs peft_type, such as 'LORA' or 'IA3', got {dict(values)}")
    try:
        return peft.get_peft_config(copy.deepcopy(dict(values)))
    except (KeyError, TypeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"peft {peft.__version__} refuses the config {dict(values)}: {first}") from error


def _plain_values(config: Any) -> dict[str, Any]:
    if not hasattr(config, "to_dict"):
        raise ValueError(f"config must be a config of peft or a mapping of its values, got {config!r}")
    values = {name: value for name, value in config.to_dict().items() if name not in ("peft_version", "inference_mode")}
    for field in dataclasses.fields(config):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name != "peft_type" and field.name in values and values[field.name] == default:
            del values[field.name]
    return json.loads(json.dumps(values, default=sorted))  # sets become sorted lists, enums their text


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
