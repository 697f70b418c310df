# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Adapter files: content, hand-over between networks, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import random

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import UNETR, ViT
from safetensors import safe_open
from safetensors.torch import save_file

from monai_essa import adapt, load_adapter, save_adapter
from monai_essa.adapters.file import read_adapter
from monai_essa.adapters.identity import sha256_of_all
from monai_essa.methods import APLA, SSF, VPT, AdaptFormer, BitFit, FullTuning, LoRA, PeftLibrary


def vit(seed: int = 0, **changes) -> ViT:
    torch.manual_seed(seed)
    arguments = {"num_layers": 12, "hidden_size": 24, "mlp_dim": 48, "num_heads": 4} | changes
    return ViT(1, 32, 16, spatial_dims=2, **arguments)


def unetr(encoder: ViT) -> UNETR:
    net = UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2)
    net.vit.load_state_dict(encoder.state_dict())
    return net


def moved(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return net


def saved(net: nn.Module, folder, **arguments):
    return save_adapter(net, folder / "adapter.safetensors", **arguments)


@pytest.mark.parametrize("method", [APLA(), APLA(columns=3), LoRA(rank=2)])
def test_adapter_of_a_vit_moves_to_a_unetr(method, tmp_path):
    encoder = vit()
    net = unetr(encoder)
    adapted = moved(adapt(encoder, method))
    load_adapter(net, saved(adapted, tmp_path))
    images = torch.rand(1, 1, 32, 32)
    assert torch.equal(net.vit(images)[0], adapted(images)[0])


def test_part_method_leaves_the_decoder_and_trains_what_the_next_stage_names(tmp_path):
    net = moved(adapt(unetr(vit()), APLA(columns=3), also_train=[r"decoder2\..*"]))
    fresh = unetr(vit())
    before = fresh.decoder2.conv_block.conv1.conv.weight.clone()
    load_adapter(fresh, saved(net, tmp_path), part="method", also_train=[r"out\..*"])
    assert torch.equal(fresh.vit.blocks[3].attn.out_proj.rows, net.vit.blocks[3].attn.out_proj.rows)
    assert torch.equal(fresh.decoder2.conv_block.conv1.conv.weight, before)
    assert fresh.out.conv.conv.bias.requires_grad and not fresh.decoder2.conv_block.conv1.conv.weight.requires_grad


def test_adapter_goes_on_with_crops_of_another_size(tmp_path):
    adapted = moved(adapt(vit(), APLA(columns=3)))
    larger = ViT(1, 64, 16, 24, 48, 12, 4, spatial_dims=2)
    larger.load_state_dict({k: v for k, v in vit().state_dict().items() if "position" not in k}, strict=False)
    load_adapter(larger, saved(adapted, tmp_path))
    assert torch.equal(larger.blocks[3].attn.out_proj.rows, adapted.blocks[3].attn.out_proj.rows)


def test_file_is_tensors_and_one_json_text(tmp_path):
    path = saved(adapt(vit(), APLA(columns=2)), tmp_path, preprocessing={"spacing": [1.0, 1.0, 1.0], "axcodes": "RAS"})
    with safe_open(path, framework="pt") as file:
        assert set(file.metadata()) == {"monai_essa"}
        record = json.loads(file.metadata()["monai_essa"])
        assert sorted(file.keys())[:3] == [
            f"encoder:blocks.0.attn.out_proj.{n}" for n in ("columns", "row_biases", "rows")
        ]
    assert record["methods"] == [{"name": "APLA", "values": {"columns": 2, "seed": 0}}]
    assert record["preprocessing"] == {"spacing": [1.0, 1.0, 1.0], "axcodes": "RAS"}
    assert "encoder:blocks.0.attn.out_proj.weight" in record["fingerprint"]
    assert not any("norm_cross_attn" in name for name in record["fingerprint"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_apla_columns_of_a_vit_b_are_under_a_megabyte(tmp_path):
    net = adapt(ViT(1, 96, 16), APLA(columns=8))
    assert saved(net, tmp_path).stat().st_size < 1_000_000


def test_another_base_is_refused_and_left_alone(tmp_path):
    path = saved(adapt(vit(), APLA()), tmp_path)
    other = vit(seed=1)
    with pytest.raises(
        ValueError, match=r"adapter.safetensors was trained on another base: \d+ of \d+ frozen tensors differ"
    ):
        load_adapter(other, path)
    adapt(other, APLA())


def test_another_method_is_refused_on_an_adapted_network(tmp_path):
    path = saved(adapt(vit(), APLA(columns=2)), tmp_path)
    with pytest.raises(ValueError, match="the network is adapted by .*LoRA"):
        load_adapter(adapt(vit(), LoRA()), path)
    with pytest.raises(ValueError, match="'columns': 3"):
        load_adapter(adapt(vit(), APLA(columns=3)), path)


def test_another_depth_is_refused_and_left_alone(tmp_path):
    torch.manual_seed(0)
    deep = vit()
    shallow = vit(num_layers=6)
    shallow.load_state_dict(deep.state_dict(), strict=False)
    path = saved(adapt(deep, APLA(columns=2)), tmp_path)
    with pytest.raises(ValueError, match="12 are on one side only, first 'encoder:blocks.10.attn.out_proj.bias'"):
        load_adapter(shallow, path)
    adapt(shallow, APLA())


def test_truncated_and_foreign_files_are_refused(tmp_path):
    path = saved(adapt(vit(), APLA()), tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        load_adapter(vit(), path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickled.pt")
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        read_adapter(tmp_path / "pickled.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="no adapter of monai_essa"):
        read_adapter(tmp_path / "plain.safetensors")
    with pytest.raises(FileNotFoundError, match="no adapter file at"):
        read_adapter(tmp_path / "absent.safetensors")


def test_a_failed_save_leaves_the_file_that_was_there(tmp_path):
    path = saved(adapt(vit(), APLA()), tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="was not written, preprocessing: expected plain values"):
        save_adapter(adapt(vit(), LoRA()), path, preprocessing={"spacing": object()})
    assert path.read_bytes() == before


def test_a_file_without_what_learns_here_is_refused_unless_the_method_alone_is_wanted(tmp_path):
    path = saved(moved(adapt(unetr(vit()), APLA(columns=3))), tmp_path)
    net = moved(adapt(unetr(vit()), APLA(columns=3), also_train=[r"out\..*"]))
    assert "lacks 'network:out.conv.conv.bias' (2 tensors), which learns here" in refused(net, path)
    before = net.out.conv.conv.bias.clone()
    assert torch.equal(load_adapter(net, path, part="method").out.conv.conv.bias, before)


def test_a_decoder_with_more_to_learn_than_the_file_holds_is_refused(tmp_path):
    path = saved(moved(adapt(unetr(vit()), APLA(columns=3), also_train=[r"decoder2\..*"])), tmp_path)
    other = UNETR(1, 2, 32, 4, 24, 48, 4, spatial_dims=2, norm_name=("instance", {"affine": True}))
    other.vit.load_state_dict(vit().state_dict())
    assert "lacks 'network:decoder2" in refused(other, path)
    load_adapter(other, path, also_train=[r"decoder2\..*"])


@dataclasses.dataclass(frozen=True)
class NormOnly:
    """A method from outside the library."""

    def claims(self, network: nn.Module) -> set[str]:
        return {"norm.weight"}

    def inject(self, network: nn.Module) -> set[str]:
        return {"norm.weight"}


def test_a_method_from_outside_is_rebuilt_only_from_the_class_given(tmp_path):
    path = saved(moved(adapt(vit(), NormOnly())), tmp_path)
    with pytest.raises(ValueError, match="method 'NormOnly' is unknown; pass its class"):
        load_adapter(vit(), path)
    assert load_adapter(vit(), path, methods=[NormOnly]).norm.weight.requires_grad


def test_part_must_be_known(tmp_path):
    with pytest.raises(ValueError, match="part must be 'all' or 'method', got 'some'"):
        load_adapter(vit(), saved(adapt(vit(), APLA()), tmp_path), part="some")


def rewritten(path, edit=lambda record: None, change=lambda tensors: None):
    """Write the file anew with another record and other tensors, checksums and all, as a stranger could."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["monai_essa"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    change(tensors)
    record["tensors_sha256"] = sha256_of_all(tensors)
    edit(record)
    content = {name: value for name, value in record.items() if name != "record_sha256"}
    if "record_sha256" in record:
        record["record_sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    other = path.with_name("other.safetensors")
    save_file(tensors, other, metadata={"monai_essa": json.dumps(record)})
    return other


def snapshot(net: nn.Module) -> list:
    """All that a refused file must leave alone; tensors by value."""
    modules = [
        (id(module), type(module), set(vars(module)), module.training, len(module._forward_hooks), len(module._modules))
        for module in net.modules()
    ]
    tensors = [(name, tensor.clone()) for name, tensor in net.state_dict().items()]
    learning = [(name, p.requires_grad, dict(vars(p))) for name, p in net.named_parameters()]
    return [modules, learning, [(name, tensor.numpy().tobytes()) for name, tensor in tensors]]


def refused(net: nn.Module, path, **arguments) -> str:
    before = snapshot(net)
    with pytest.raises(ValueError, match=rf"^[^\n]*{path.name}[^\n]*$") as refusal:
        load_adapter(net, path, **arguments)
    assert snapshot(net) == before
    return str(refusal.value)


METHODS = [APLA(columns=3), LoRA(rank=2), VPT(tokens=2, deep=False), AdaptFormer(bottleneck=2), SSF(), FullTuning()]


@pytest.mark.parametrize("method", METHODS)
def test_a_file_that_lacks_a_tensor_leaves_a_fresh_base_fresh_and_an_adapted_one_as_it_was(method, tmp_path):
    path = saved(moved(adapt(vit(), method)), tmp_path)

    def lack_one(record):
        gone = record["method_tensors"].pop()
        record["fingerprint"].pop(gone, None)

    lacking = rewritten(path, lack_one, lambda tensors: tensors.pop(max(tensors)))
    fresh, adapted = vit(), moved(adapt(vit(), method))
    refused(fresh, lacking)
    refused(adapted, lacking)
    assert load_adapter(load_adapter(fresh, path), path) is fresh
    load_adapter(adapted, path)


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "holds NaN or infinity"), (float("inf"), "holds NaN or infinity")]
)
def test_values_that_are_not_finite_are_neither_saved_nor_loaded(value, said, tmp_path):
    net = adapt(vit(), APLA(columns=3))
    path = saved(net, tmp_path)
    before = path.read_bytes()
    net.blocks[1].attn.out_proj.rows.data[0, 0] = value
    with pytest.raises(ValueError, match=f"was not written: 'encoder:blocks.1.attn.out_proj.rows' {said}"):
        saved(net, tmp_path)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == [path.name]
    name = "encoder:blocks.1.attn.out_proj.rows"
    assert name in refused(vit(), rewritten(path, change=lambda tensors: tensors[name].fill_(value)))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (torch.tensor([1, 1, 2]), "holds an index twice"),
        (torch.tensor([1, 2, 24]), "holds the index 24 of 24 rows"),
        (torch.tensor([-1, 2, 3]), "holds -1"),
        (torch.tensor([1, 2, 3], dtype=torch.int32), "in torch.int32, the network has torch.int64"),
        (torch.tensor([1.0, 2.0, 3.0]), "in torch.float32, the network has torch.int64"),
        (torch.tensor([1, 2, 3, 4]), "of shape (4,), the network has shape (3,)"),
        (torch.tensor([[1, 2, 3]]), "of shape (1, 3), the network has shape (3,)"),
    ],
)
def test_indices_that_are_none_are_refused(columns, said, tmp_path):
    name = "encoder:blocks.2.attn.out_proj.columns"
    path = saved(adapt(vit(), APLA(columns=3)), tmp_path)
    other = rewritten(path, change=lambda tensors: tensors.update({name: columns}))
    for net in (vit(), adapt(vit(), APLA(columns=3))):
        line = refused(net, other)
        assert said in line and name in line.replace("'blocks", "'encoder:blocks")


def test_a_flipped_bit_is_seen_in_the_tensors_and_in_the_record(tmp_path):
    path = saved(moved(adapt(vit(), LoRA(rank=2, alpha=4))), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0x40]))
    assert "its tensors do not have the checksum" in refused(vit(), path)
    assert whole.count(b'\\"alpha\\": 4') == 1
    path.write_bytes(whole.replace(b'\\"alpha\\": 4', b'\\"alpha\\": 5'))
    assert "the record does not have the checksum" in refused(vit(), path)


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        (LoRA(rank=2), {"rank": 10**9}, "rank 1000000000"),
        (LoRA(rank=2), {"rank": "2"}, "LoRA"),
        (LoRA(rank=2), {"rank": 2.5}, ""),
        (LoRA(rank=2), {"rank": [2]}, "LoRA"),
        (LoRA(rank=2), {"rank": None}, "LoRA"),
        (LoRA(rank=2), {"rank": 3}, "shape"),
        (LoRA(rank=2), {"alpha": "x"}, ""),
        (LoRA(rank=2), {"dropout": 2}, "LoRA"),
        (LoRA(rank=2), {"dropout": "0.1"}, "LoRA"),
        (LoRA(rank=2), {"targets": ["q", "w"]}, "LoRA"),
        (LoRA(rank=2), {"targets": 7}, "LoRA"),
        (LoRA(rank=2), {"beta": 7}, "no field 'beta'"),
        (APLA(columns=3), {"columns": 10**9}, "columns"),
        (APLA(columns=3), {"columns": "3"}, "columns"),
        (APLA(columns=3), {"columns": {"0": [1, 1]}}, "columns"),
        (APLA(columns=3), {"columns": {"0": [[1]]}}, ""),
        (APLA(columns=3), {"columns": {"99": [1]}}, "columns"),
        (APLA(columns=3), {"seed": "now"}, ""),
        (APLA(columns=3), {"seed": 2**62}, None),
        (VPT(tokens=2), {"tokens": 10**9}, "shape"),
        (VPT(tokens=2), {"deep": "no"}, "VPT"),
        (AdaptFormer(bottleneck=2), {"bottleneck": 10**12}, "shape"),
        (AdaptFormer(bottleneck=2), {"scale": "x"}, "AdaptFormer"),
        (BitFit(), {"norms": 1}, "BitFit"),
    ],
)
def test_values_of_a_method_are_refused_before_anything_is_allocated(method, values, said, tmp_path):
    path = saved(adapt(vit(), method), tmp_path)
    other = rewritten(path, lambda record: record["methods"][0]["values"].update(values))
    if said is None:
        load_adapter(vit(), other)
    else:
        assert said in refused(vit(), other)


def test_two_methods_that_are_equal_are_one_line(tmp_path):
    path = saved(adapt(vit(), LoRA(rank=2)), tmp_path)
    other = rewritten(path, lambda record: record["methods"].append(record["methods"][0]))
    assert "both claim" in refused(vit(), other)


def test_peft_methods_load_too_and_a_refusal_leaves_no_trace(tmp_path):
    method = PeftLibrary({"peft_type": "LORA", "r": 2, "target_modules": ["linear1"]})
    path = saved(moved(adapt(vit(), method)), tmp_path)
    for rank, reason in ((3, "shape"), (10**9, "expected a whole number")):
        config = rewritten(path, lambda record, rank=rank: record["methods"][0]["values"]["config"].update(r=rank))
        assert reason in refused(vit(), config)
    load_adapter(vit(), path)


def test_format_1_is_read_with_one_warning_and_saved_as_format_2(tmp_path, caplog):
    net = moved(adapt(vit(), APLA(columns=3)))
    path = saved(net, tmp_path)

    def as_format_1(record):
        for name in ("facts", "positions", "tensors_sha256", "record_sha256"):
            del record[name]
        record["fingerprint"].pop("encoder:patch_embedding.position_embeddings")
        record["format_version"] = 1

    old = rewritten(path, as_format_1)
    fresh = load_adapter(vit(), old)
    assert torch.equal(fresh.blocks[3].attn.out_proj.rows, net.blocks[3].attn.out_proj.rows)
    assert [line for line in caplog.messages if "heads, window and checksum of the file are unverified" in line]
    assert len([entry for entry in caplog.records if entry.levelname == "WARNING"]) == 1
    assert read_adapter(saved(fresh, tmp_path)).record["format_version"] == 2


def test_a_newer_format_is_refused_even_where_all_else_is_as_today(tmp_path):
    path = saved(moved(adapt(vit(), APLA(columns=3))), tmp_path)
    newer = rewritten(path, lambda record: record.update(format_version=3))
    for net in (vit(), adapt(vit(), APLA(columns=3))):
        assert "has adapter format 3, this version reads 2; upgrade monai_essa" in refused(net, newer)
    with pytest.raises(ValueError, match="has adapter format 3, this version reads 2; upgrade monai_essa"):
        read_adapter(newer)


@pytest.mark.parametrize("method", [APLA(columns=3), VPT(tokens=2, deep=False)])
@pytest.mark.parametrize("there, here", [({"qkv_bias": True}, {}), ({}, {"qkv_bias": True}), ({}, {"num_heads": 8})])
def test_a_base_with_more_or_fewer_tensors_or_other_heads_is_refused(there, here, method, tmp_path):
    path = saved(adapt(vit(**there), method), tmp_path)
    net = vit(**here)
    net.load_state_dict(vit(**there).state_dict(), strict=False)
    refused(net, path)


@pytest.mark.parametrize("method", [VPT(tokens=2, deep=False), APLA(columns={0: [1, 2]})])
def test_a_network_of_half_the_blocks_is_refused(method, tmp_path):
    path = saved(adapt(vit(), method), tmp_path)
    net = vit(num_layers=6)
    net.load_state_dict(vit().state_dict(), strict=False)
    refused(net, path)


def mutated(value, draw: random.Random):
    """Change one place of nested plain values."""
    strange = [
        None,
        True,
        -1,
        0,
        10**9,
        10**300,
        1.5,
        "",
        "x",
        "$x",
        "\u202e\x00",
        "a" * 3000,
        [],
        {},
        [[[]]],
        {"_target_": "os"},
    ]
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(sorted(value))
        kept = dict(value)
        kind = draw.randrange(4)
        if kind == 0:
            del kept[name]
        elif kind == 1:
            kept[draw.choice(["new", "", "../x", name + "x"])] = kept[name]
        else:
            kept[name] = mutated(value[name], draw)
        return kept
    if isinstance(value, list) and value and draw.random() < 0.9:
        kept = list(value)
        place = draw.randrange(len(kept))
        kept[place] = mutated(kept[place], draw)
        return kept if draw.random() < 0.7 else kept + kept
    return draw.choice(strange)


def change_somewhere(record: dict, draw: random.Random) -> None:
    changed = mutated(record, draw)
    record.clear()
    record.update(changed if isinstance(changed, dict) else {"record": changed})


def test_a_changed_record_is_one_line_or_changes_nothing_that_counts(tmp_path):
    net = moved(adapt(vit(num_layers=2), [APLA(columns=3), LoRA(rank=2)], also_train=["norm.*"]))
    path = saved(net, tmp_path, preprocessing={"spacing": [1.0, 1.0, 2.0], "labels": {"1": "liver"}})
    fresh = vit(num_layers=2)
    before, draw = snapshot(fresh), random.Random(0)
    refusals = 0
    for _ in range(300):
        other = rewritten(path, lambda record: change_somewhere(record, draw))
        try:
            loaded = load_adapter(copy.deepcopy(fresh), other)
        except ValueError as error:
            refusals += 1
            assert other.name in str(error) and "\n" not in str(error)
            with pytest.raises(ValueError, match="other.safetensors"):
                load_adapter(fresh, other)
            assert snapshot(fresh) == before
        else:
            assert torch.equal(loaded.blocks[1].attn.out_proj.rows, net.blocks[1].attn.out_proj.rows)
    assert refusals > 150


def test_changed_bytes_are_one_line(tmp_path):
    path = saved(moved(adapt(vit(num_layers=2), LoRA(rank=2))), tmp_path)
    whole, fresh, draw = path.read_bytes(), vit(num_layers=2), random.Random(1)
    before, other = snapshot(fresh), tmp_path / "bytes.safetensors"
    for number in range(300):
        content, place = bytearray(whole), draw.randrange(len(whole) if number % 2 else 3000)
        if number % 3 == 0:
            content[place] ^= 1 << draw.randrange(8)
        elif number % 3 == 1:
            del content[place : place + draw.randrange(1, 50)]
        else:
            content[place:place] = draw.randbytes(draw.randrange(1, 50))
        other.write_bytes(bytes(content))
        with pytest.raises(ValueError, match=r"^[^\n]*bytes\.safetensors[^\n]*$"):
            load_adapter(fresh, other)
    assert snapshot(fresh) == before
