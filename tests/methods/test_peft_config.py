# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A config of peft is plain values of its layers, whoever wrote it, or is refused in one line."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from monai_essa.methods.peft_config import _FIELDS, _TYPES, peft_config, plain_values

peft = pytest.importorskip("peft", reason="needs the peft package: pip install monai_essa[peft]")

LORA: dict[str, Any] = {"peft_type": "LORA", "target_modules": ["qkv"]}
CLASSES = {str(name.value): kind for name, kind in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
# Fields with which peft imports, opens or unpickles what they name, or runs something else than its layers.
OPENING = {
    "megatron_core": "os",
    "megatron_config": {"a": 1},
    "auto_mapping": {"base_model_class": "X", "parent_library": "os"},
    "base_model_name_or_path": "someone/model",
    "revision": "main",
    "runtime_config": {"ephemeral_gpu_offload": True},
    "loftq_config": {"loftq_bits": 4},
    "eva_config": {"rho": 2.0},
    "corda_config": {"cache_file": "a.pt", "covariance_file": "b.pt"},
    "lora_ga_config": {"cache_file": "a.pt"},
    "arrow_config": {"top_k": 1},
    "kasa_config": {},
    "use_bdlora": {"nblocks": 2},
    "velora_config": {"num_groups": 2},
    "monteclora_config": {"a": 1},
    "alora_invocation_tokens": [1],
    "use_qalora": True,
    "ensure_weight_tying": True,
    "_target_": "os.system",
    "__class__": "os",
}


@pytest.mark.parametrize("field", OPENING)
def test_a_field_that_peft_would_open_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"field '{field}'"):
        plain_values({**LORA, field: OPENING[field]})


def test_every_field_of_every_type_is_known_to_be_plain_or_refused() -> None:
    """Of a newer peft, too: what is not in the table does not come in."""
    for kind in CLASSES.keys() & set(_TYPES):
        for field in dataclasses.fields(CLASSES[kind]):
            if field.name not in {*_FIELDS, "peft_type", "peft_version", "inference_mode"}:
                with pytest.raises(ValueError, match=f"field '{field.name}'|got {field.name}="):
                    plain_values({"peft_type": kind, "target_modules": ["qkv"], field.name: "os"})


@pytest.mark.parametrize("kind", sorted(CLASSES.keys() - set(_TYPES)))
def test_a_type_that_does_not_work_by_layers_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"field 'peft_type': expected one of .*; got '{kind}'"):
        plain_values({"peft_type": kind, "target_modules": ["qkv"]})


@pytest.mark.parametrize("kind", sorted(CLASSES.keys() & set(_TYPES)))
def test_a_type_that_works_by_layers_is_made(kind: str) -> None:
    given = {"peft_type": kind, "target_modules": ["qkv", "linear1"]} | {"ADALORA": {"total_step": 9}}.get(kind, {})
    values = plain_values(given)
    assert values == given
    assert type(peft_config(values)) is CLASSES[kind]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", "(a+)+b"),
        ("target_modules", ["qkv\nx"]),
        ("target_modules", ["(a+)+b"]),
        ("target_modules", 5),
        ("exclude_modules", "(a|a)*b"),
        ("rank_pattern", {"(a+)+": 4}),
        ("rank_pattern", {"a)+(b": 4}),
        ("rank_pattern", {"qkv": 10**9}),
        ("alpha_pattern", {".*.*.*.*": 4}),
        ("layers_pattern", ["(b+)+"]),
        ("layers_pattern", "b)+(c"),
        ("layers_to_transform", [10**9]),
        ("r", 10**9),
        ("r", -1),
        ("r", "8"),
        ("r", True),
        ("r", [8]),
        ("lora_alpha", math.inf),
        ("lora_dropout", math.nan),
        ("lora_dropout", 2),
        ("use_dora", "yes"),
        ("init_lora_weights", "pissa_niter_1000000000"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "corda"),
        ("task_type", "a/b"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"LORA config of peft, field '{field}'") as caught:
        plain_values({**LORA, field: value})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [object(), {"a": object()}, {1, "a"}])
def test_a_value_that_no_file_could_hold_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="a config of peft: expected plain values"):
        plain_values({**LORA, "r": value})


def test_values_of_a_config_object_go_the_same_way() -> None:
    config = peft.LoraConfig(r=4, lora_alpha=8.5, target_modules=r"blocks\.\d+\.attn\.qkv", rank_pattern={"qkv": 2})
    assert plain_values(config) == {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8.5,
        "target_modules": r"blocks\.\d+\.attn\.qkv",
        "rank_pattern": {"qkv": 2},
    }
    with pytest.raises(ValueError, match="field 'target_modules': .* may take for ever"):
        plain_values(peft.LoraConfig(target_modules="(a+)+b"))
