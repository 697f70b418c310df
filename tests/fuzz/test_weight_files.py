# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Weight files of unknown origin: refused in one line with the network as it was, or loaded and each tensor named."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.nets import UNETR, SegResNet, SwinUNETR, ViT
from safetensors.torch import save

from monai_essa import load_weights
from monai_essa.weights import WeightReport
from monai_essa.weights.file import read_weight_file
from tests.fuzz.hostile_values import MARKER, Draw, damaged, edited, texts, values
from tests.fuzz.profiles import assert_one_line, guarded, inputs

WRAPPERS = ("state_dict", "model", "module", "net", "epoch", "optimizer", "", "model_ema", "a.b")

UNTOUCHED: dict[int, nn.Module] = {}  # copies that a refusal left as they were: copying takes longer than refusing


@functools.cache
def networks() -> tuple[nn.Module, ...]:
    torch.manual_seed(0)
    return (
        UNETR(1, 2, 16, 2, 12, 24, 2, spatial_dims=2),
        SegResNet(2, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)),
        SwinUNETR(1, 2, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), feature_size=12, window_size=3, spatial_dims=2),
        ViT(1, 16, 8, hidden_size=12, mlp_dim=24, num_layers=2, num_heads=2, spatial_dims=2),
    )


class Planted:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARKER}",)


@functools.cache
def states() -> tuple[dict[str, torch.Tensor], ...]:
    return tuple(
        {name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in each.state_dict().items()}
        for each in networks()
    )


def other_tensor(draw: Draw, tensor: torch.Tensor) -> Any:
    what = draw(st.sampled_from(["shape", "shape", "type", "value", "meta", "sparse", "wide", "no tensor"]))
    if what == "shape":
        doubled = tensor.repeat(2, *[1] * (tensor.dim() - 1)) if tensor.dim() else tensor
        shapes = (tensor[:1] if tensor.dim() else tensor, tensor[None], tensor.flatten(), doubled)
        return shapes[draw(st.integers(0, 3))].contiguous()
    if what == "type":
        kinds = (torch.float16, torch.float64, torch.int8, torch.bool, torch.complex64)
        return tensor.to(draw(st.sampled_from(kinds)))
    if what == "value":
        return tensor * draw(st.sampled_from([float("nan"), float("inf"), 1e38, 0.0]))
    if what == "meta":
        return tensor.to("meta")
    if what == "sparse":
        return tensor.to_sparse()
    if what == "wide":
        return torch.zeros(1).expand(2**40)
    return draw(values())


def content(draw: Draw, number: int) -> Any:
    """A dictionary as torch.save would be given, of the state of a network."""
    state: dict[Any, Any] = dict(states()[number])
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(map(str, state))))
        what = draw(st.sampled_from(["other", "gone", "renamed", "new", "prefix"]))
        if what == "prefix":
            prefix = draw(texts() | st.sampled_from(["module.", "backbone.", "vit.", "_orig_mod."]))
            state = {f"{prefix}{key}": tensor for key, tensor in state.items()}
        elif what == "new":
            state[draw(texts() | st.integers() | st.none())] = draw(values())
        elif name in state:
            tensor = state.pop(name)
            plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.numel() < 10**6
            if what == "other" and plain:
                state[name] = other_tensor(draw, tensor)
            elif what == "renamed":
                state[draw(texts())] = tensor
    held: Any = state
    for _ in range(draw(st.integers(0, 2))):
        held = {draw(st.sampled_from(WRAPPERS)): held, draw(st.sampled_from(WRAPPERS)): draw(values())}
    return held


def weight_file(draw: Draw, number: int) -> bytes:
    kind = draw(st.sampled_from(["torch", "torch", "torch", "bytes", "safetensors", "safetensors", "pickle", "old"]))
    if kind == "safetensors":
        return safetensors_file(draw, number)
    if kind == "pickle":
        planted = {"state_dict": states()[number], draw(texts()): Planted()}
        return saved(planted, draw(st.booleans())) if draw(st.booleans()) else pickle.dumps(Planted())
    if kind == "bytes":
        return damaged(draw, saved(states()[number], draw(st.booleans())), 3000)
    return saved(content(draw, number), kind == "torch")


def saved(value: Any, as_archive: bool) -> bytes:
    held = io.BytesIO()
    torch.save(value, held, _use_new_zipfile_serialization=as_archive)
    return held.getvalue()


def safetensors_file(draw: Draw, number: int) -> bytes:
    """A file with other tensors, with other metadata, or with another header."""
    plain = {str(key): value for key, value in content(draw, number).items() if isinstance(value, torch.Tensor)}
    tensors = {
        key.encode(errors="replace").decode(): tensor.clone(memory_format=torch.contiguous_format)
        for key, tensor in plain.items()
        if tensor.layout == torch.strided and not tensor.is_meta and tensor.numel() < 10**6
    }
    good = save(tensors, metadata={"preprocessing": json.dumps(draw(values()))})
    what = draw(st.sampled_from(["whole", "bytes", "header"]))
    if what == "header":
        length = int.from_bytes(good[:8], "little")
        header = json.dumps(edited(draw, json.loads(good[8 : 8 + length]))).encode()
        return len(header).to_bytes(8, "little") + header + good[8 + length :]
    return damaged(draw, good) if what == "bytes" else good


def look(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_accounted(report: WeightReport, path: Path, network: nn.Module, before: dict[str, torch.Tensor]) -> None:
    """Every tensor of the file is in one list; only what the report calls loaded has changed, to finite values."""
    kinds = ("matched", "renamed", "inflated", "interpolated", "folded", "skipped")
    named = [entry.source or entry.name for kind in kinds for entry in getattr(report, kind)]
    assert len(named) == len(set(named)) and set(named) == set(read_weight_file(path).tensors)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before if name not in report.loaded)
    assert all(after[name].isfinite().all() for name in report.loaded)
    json.dumps(report.as_dict())


def fitting(draw: Draw) -> tuple[int, int]:
    """The number of the network that a file is made of, and mostly the same of the one that it is loaded into."""
    number = draw(st.integers(0, 3))
    return number, draw(st.sampled_from([number, number, number, 3 - number]))


@inputs(100)
@given(data=st.data())
def test_a_weight_file_is_refused_or_loaded_with_every_tensor_named(data: st.DataObject, scratch: Path) -> None:
    source, target = fitting(data.draw)
    path = scratch / data.draw(st.sampled_from(["received.pt", "received.safetensors"]))
    path.write_bytes(weight_file(data.draw, source))
    network = UNTOUCHED.pop(target, None) or copy.deepcopy(networks()[target])
    before = look(network)
    with guarded():
        try:
            report = load_weights(network, path)
        except (ValueError, FileNotFoundError) as error:
            assert_one_line(error, path.name)
            assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
            UNTOUCHED[target] = network
        else:
            assert_accounted(report, path, network, before)


@inputs(20)
@given(data=st.data())
def test_any_option_is_taken_or_refused(data: st.DataObject, scratch: Path) -> None:
    path = scratch / "received.pt"
    path.write_bytes(saved({"model": states()[3], "ema": states()[3]}, True))
    network = copy.deepcopy(networks()[3])
    before = look(network)
    options = {"prefix": data.draw(values()), "accept": data.draw(values()), "source_grid": data.draw(values())}
    name = data.draw(st.sampled_from(sorted(options)))
    with guarded():
        try:
            load_weights(network, path, **{"prefix": "ema"} | {name: options[name]})
        except ValueError as error:
            assert_one_line(error)
            assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_an_archive_that_grows_without_end_is_refused(scratch: Path) -> None:
    path = scratch / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with guarded(), pytest.raises(ValueError, match="bomb.pt"):
        load_weights(copy.deepcopy(networks()[3]), path)
