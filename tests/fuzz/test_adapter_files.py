# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapter files of unknown origin: refused in one line with the network as it was, or loaded with finite values."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.nets import ViT
from safetensors import safe_open
from safetensors.torch import save

from monai_essa import adapt, load_adapter, save_adapter
from monai_essa.adapters.identity import sha256_of_all
from monai_essa.adapters.record import read_header
from monai_essa.cli import main
from monai_essa.methods import APLA, SSF, VPT, AdaptFormer, BitFit, LoRA, PeftLibrary
from monai_essa.methods.method import AdaptationMethod
from tests.fuzz.hostile_values import Draw, damaged, edited, texts
from tests.fuzz.profiles import assert_one_line, guarded, inputs

PEFT = {"peft_type": "LORA", "r": 2, "target_modules": ["linear1"], "use_dora": True}
METHODS = (APLA(columns=2), LoRA(rank=2), SSF(), VPT(), AdaptFormer(), BitFit(), PeftLibrary(PEFT))
CARD = {"spacing": [1.0, 1.0, 2.5], "axcodes": "RAS", "intensity": "ct", "labels": {"background": 0, "liver": 1}}
Good = tuple[bytes, dict[str, Any], dict[str, torch.Tensor]]


@functools.cache
def base() -> ViT:
    torch.manual_seed(0)
    return ViT(1, 16, 8, hidden_size=12, mlp_dim=24, num_layers=2, num_heads=2, spatial_dims=2)


def good_file(path: Path, method: AdaptationMethod) -> Good:
    save_adapter(adapt(copy.deepcopy(base()), method, [r"patch_embedding\.position_embeddings"]), path, CARD)
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["monai_essa"])
        return path.read_bytes(), record, {name: file.get_tensor(name) for name in file.keys()}


def sealed(record: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Signs a record anew, as whoever changes a file on purpose would."""
    if isinstance(record, dict):
        record["tensors_sha256"] = sha256_of_all(tensors)
        record.pop("record_sha256", None)
        record["record_sha256"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return record


def changed_tensors(draw: Draw, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    name = draw(st.sampled_from(sorted(changed)))
    tensor = changed.pop(name)
    what = draw(st.sampled_from(["gone", "renamed", "shape", "type", "value", "twice"]))
    if what in ("renamed", "twice"):
        changed[f"encoder:{draw(texts())}".encode(errors="replace").decode()] = tensor
    if what == "shape":
        shapes = (tensor[:0], tensor[None], tensor.flatten()[:1], tensor.repeat(2, *[1] * (tensor.dim() - 1)))
        changed[name] = shapes[draw(st.integers(0, 3))].clone(memory_format=torch.contiguous_format)
    if what == "type":
        changed[name] = tensor.to(draw(st.sampled_from([torch.float64, torch.bfloat16, torch.int64, torch.bool])))
    if what == "twice":
        changed[name] = tensor.clone()
    if what == "value" and tensor.numel():
        number = draw(st.sampled_from([0, -1, 7, 2**30, float("nan"), float("inf"), 1e30]))
        tensor.view(-1)[0] = number if tensor.is_floating_point() or number == number and abs(number) < 2**31 else -5
        changed[name] = tensor
    return changed


def adapter_file(draw: Draw, goods: list[Good]) -> bytes:
    content, record, tensors = goods[draw(st.integers(0, len(goods) - 1))]
    kind = draw(st.sampled_from(["record", "record", "record", "tensors", "bytes"]))
    if kind == "bytes":
        return damaged(draw, content)
    if kind == "tensors":
        tensors = changed_tensors(draw, tensors)
    else:
        record = edited(draw, record)
    signed = sealed(copy.deepcopy(record), tensors) if draw(st.booleans()) else record
    return save(tensors, metadata={"monai_essa": json.dumps(signed)})


def look(network: nn.Module) -> tuple[Any, ...]:
    """Whatever of a network a refused file must not change."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    learning = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    return state, learning, {name: type(module) for name, module in network.named_modules()}


def assert_unchanged(network: nn.Module, before: tuple[Any, ...]) -> None:
    after = look(network)
    assert after[1:] == before[1:] and after[0].keys() == before[0].keys()
    assert all(torch.equal(after[0][name], tensor) for name, tensor in before[0].items())


@pytest.fixture
def goods(scratch: Path) -> list[Good]:
    return [good_file(scratch / "good.safetensors", method) for method in METHODS]


@inputs(120)
@given(data=st.data())
def test_a_changed_adapter_file_is_refused_or_whole(data: st.DataObject, goods: list[Good], scratch: Path) -> None:
    path = scratch / "received.safetensors"
    path.write_bytes(adapter_file(data.draw, goods))
    network = copy.deepcopy(base())
    before = look(network)
    with guarded():
        try:
            load_adapter(network, path)
        except (ValueError, FileNotFoundError) as error:
            assert_one_line(error, path.name)
            assert_unchanged(network, before)
        else:
            assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


@inputs(30)
@given(data=st.data())
def test_adapter_info_prints_a_line_for_each_fact(
    data: st.DataObject, goods: list[Good], scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = scratch / "received.safetensors"
    path.write_bytes(adapter_file(data.draw, goods))
    with guarded():
        code = main(["adapter", "info", str(path)])
    out, err = capsys.readouterr()
    if code == 0:
        assert read_header(path).record["network"] in out
        assert len(out.splitlines()) == 9
    else:
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert path.name in err
