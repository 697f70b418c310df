# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Check configs of the peft package: only plain values about layers are allowed, and nothing that peft would open.

A config may come from an adapter file. In peft, some fields name a module that is imported (``megatron_core``), a file
that is unpickled (``corda_config``, ``lora_ga_config``) or a pattern that may take forever to match. Each field is
therefore checked by the tables below before peft reads the config.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from monai_essa.outside import NAME, Check, Choice, Flag, ListOf, MapOf, Number, Text, check_pattern, shown

__all__ = ["peft_config", "peft_package", "plain_values"]

# The types that work layer by layer and import, open and compile nothing: from the sources of peft 0.18 to 0.21.
_TYPES = (
    *("ADALORA", "ADAMSS", "BEFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3"),
    *("LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF", "PSOFT", "RANDLORA", "ROAD", "SHIRA", "WAVEFT"),
)
_ABOUT_PEFT = ("peft_version", "inference_mode")  # not about the method
# What peft would do outside its layers, and how to do it here.
_ELSEWHERE = {
    "modules_to_save": "name these tensors in also_train",
    "bias": "add BitFit() or name the biases in also_train",
    "target_parameters": "name layers in target_modules",
    "trainable_token_indices": "name layers in target_modules",
    "layer_replication": "build the network with the depth that you want",
}


@dataclass(frozen=True)
class _Pattern:
    """A regular expression that peft puts between two others and matches against the names of layers."""

    before: str = ""
    after: str = ""

    def check(self, value: Any, where: str) -> str:
        check_pattern(f"{self.before}{value}{self.after}" if isinstance(value, str) else value, where)
        return value


@dataclass(frozen=True)
class _OneOrMore:
    """One value, or a list of values."""

    one: Check
    each: Check

    def check(self, value: Any, where: str) -> Any:
        many = isinstance(value, (list, tuple))
        return ListOf(self.each, longest=1000).check(value, where) if many else self.one.check(value, where)


# Text is matched in full; the entries of a list match the ends of names.
_LAYERS = _OneOrMore(_Pattern(), Text(r"[A-Za-z0-9_.]+"))
_INDEX, _LAYER_LIST = Number(0, 4096, whole=True), _Pattern(r"(?:^|.*?\.)", r"\.(?P<idx>\d+)\.")
_BY_LAYER = MapOf(Number(0, 4096), _Pattern(r"(.*\.)?(", ")$"), longest=1000)
_STEPS, _SEED, _REAL = Number(0, 10**9, whole=True), Number(0, 2**63 - 1, whole=True), Number(-1e9, 1e9)
_FIELDS: dict[str, Check] = {
    **dict.fromkeys(("target_modules", "exclude_modules", "feedforward_modules"), _LAYERS),
    **dict.fromkeys(("rank_pattern", "alpha_pattern", "lambda_pattern", "block_size_pattern"), _BY_LAYER),
    "n_frequency_pattern": MapOf(Number(1, 10**7, whole=True), _BY_LAYER.names, longest=1000),
    "layers_to_transform": _OneOrMore(_INDEX, _INDEX),
    "layers_pattern": _OneOrMore(_LAYER_LIST, _LAYER_LIST),
    "task_type": Text(NAME),
    "init_lora_weights": Choice((True, False, "gaussian", "orthogonal", "olora", "pissa")),
    "init_weights": Choice(
        (True, False, None, "gaussian", "kaiming_uniform", "xavier_uniform", "lycoris", "bat", "mini", "orthogonal")
    ),
    "mask_type": Choice(("random",)),
    "variant": Choice(("road_1", "road_2", "road_4")),
    "wavelet_family": Text(r"[a-z0-9.]+", longest=16),
    "decomposition_method": Choice(("relu", "qr")),
    "psoft_svd": Choice(("full", "lowrank")),
    "ab_svd_init": Choice(("psoft_init", "pissa_init")),
    **dict.fromkeys(("config_A_B", "config_C", "config_D_E"), Choice(("lora", "vector", "constant", "none"))),
    **dict.fromkeys(("r", "mini_r", "hybrid_r", "target_r", "init_r", "subspace_rank", "num_subspaces"), _INDEX),
    **dict.fromkeys(("oft_block_size", "block_size", "group_size", "gralora_k"), Number(0, 65_536, whole=True)),
    "decompose_factor": Number(-1, 4096, whole=True),
    "effective_rank": Number(0, 65_536),
    "n_frequency": Number(1, 10**7, whole=True),
    **dict.fromkeys(("num_cayley_neumann_terms", "psoft_svd_lowrank_niter"), Number(0, 100, whole=True)),
    **dict.fromkeys(("tinit", "tfinal", "deltaT", "total_step", "init_warmup", "final_warmup"), _STEPS),
    **dict.fromkeys(("mask_interval", "asa_target_subspaces"), _STEPS),
    **dict.fromkeys(("projection_prng_key", "random_loc_seed", "random_seed"), _SEED),
    **dict.fromkeys(("lora_alpha", "alpha", "randlora_alpha", "psoft_alpha", "delora_lambda", "scaling"), _REAL),
    **dict.fromkeys(("init_scale", "orth_reg_weight", "eps", "cayley_neumann_eps", "svd_threshold"), _REAL),
    **dict.fromkeys(("beta1", "beta2", "asa_importance_beta", "asa_uncertainty_beta"), Number(0, 1)),
    "asa_schedule_exponent": _REAL,
    **dict.fromkeys(("lora_dropout", "miss_dropout", "module_dropout", "rank_dropout", "hira_dropout"), Number(0, 1)),
    **dict.fromkeys(("randlora_dropout", "gralora_dropout", "deft_dropout", "psoft_dropout"), Number(0, 1)),
    **dict.fromkeys(("fan_in_fan_out", "use_rslora", "use_dora", "lora_bias", "init_ia3_weights", "coft"), Flag()),
    **dict.fromkeys(("use_effective_conv2d", "decompose_both", "rank_dropout_scale", "block_share"), Flag()),
    **dict.fromkeys(("use_cayley_neumann", "apply_GS", "save_projection", "sparse", "very_sparse"), Flag()),
    **dict.fromkeys(("proportional_parameters", "use_idwt", "use_asa", "use_dynamic_rank", "para"), Flag()),
    **dict.fromkeys(("psoft_mag_a", "psoft_mag_b", "psoft_orth"), Flag()),
}


def peft_package() -> ModuleType:
    """Return the peft package.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError('PeftLibrary needs the peft package: pip install "monai_essa[peft]"') from error


def plain_values(config: Any) -> dict[str, Any]:
    """Return the checked values of a config that differ from peft's defaults.

    Args:
        config: a config of peft, or its values as a mapping with ``peft_type``.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the type does not work layer by layer, or a field is unknown or has a wrong value. The message
            names the field.
    """
    values = _as_json(config)
    if "peft_type" not in values:
        raise ValueError(f"a config of peft needs peft_type, such as 'LORA' or 'IA3', got {shown(values)}")
    kind = Choice(_TYPES).check(values.pop("peft_type"), "a config of peft, field 'peft_type'")
    defaults = _defaults(kind)
    given = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
    checked = {name: _checked(kind, name, value, defaults) for name, value in given.items() if name not in _ABOUT_PEFT}
    if "target_modules" not in checked:
        raise ValueError(f"{kind} config without target_modules; name layers of the encoder there")
    return {"peft_type": kind, **checked}


def peft_config(values: Mapping[str, Any]) -> Any:
    """Build a config of peft.

    Args:
        values: of :func:`plain_values`.

    Raises:
        ValueError: if peft refuses them.
    """
    peft = peft_package()
    try:
        return _config_class(values["peft_type"])(
            **{name: value for name, value in values.items() if name != "peft_type"}
        )
    except (KeyError, TypeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"peft {peft.__version__} refuses the config {dict(values)}: {first}") from error


def _as_json(config: Any) -> dict[str, Any]:
    """Convert values to their form in files: sets to sorted lists, enums to text."""
    values = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(values, Mapping):
        raise ValueError(f"config must be a config of peft or a mapping of its values, got {shown(config)}")
    try:
        return json.loads(json.dumps(dict(values), default=sorted))
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"a config of peft: expected plain values, got {shown(values)}") from error


def _checked(kind: str, name: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    if name in _ELSEWHERE:
        raise ValueError(f"PeftLibrary trains layers of peft only, got {name}={shown(value)}; {_ELSEWHERE[name]}")
    if name not in _FIELDS or name not in defaults:
        known = ", ".join(sorted(_FIELDS.keys() & defaults.keys()))
        raise ValueError(f"{kind} config of peft: unknown or no plain field {shown(name)}; expected some of {known}")
    return _FIELDS[name].check(value, f"{kind} config of peft, field '{name}'")


def _defaults(kind: str) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(_config_class(kind))}
    return _as_json(
        {
            name: field.default_factory() if callable(field.default_factory) else field.default
            for name, field in fields.items()
            if name != "runtime_config"
        }
    )


def _config_class(kind: str) -> Any:
    peft = peft_package()
    known = {
        str(getattr(name, "value", name)): found for name, found in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    if kind not in known:
        raise ValueError(f"peft {peft.__version__} has no {kind}; install another version of it")
    return known[kind]
