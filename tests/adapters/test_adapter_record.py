# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The header of an adapter file: every field is what it has to be, or one line says which is not."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from monai_essa.adapters.record import check_card, check_record, methods_text, read_header, seal_record
from monai_essa.methods import APLA

NAME = "encoder:blocks.0.attn.out_proj.rows"
DIGEST = "0" * 64


def record(**changes) -> dict:
    content = {
        "methods": [{"name": "APLA", "values": {"columns": 2, "seed": 0}}],
        "method_tensors": [NAME],
        "claims": [NAME],
        "also_train": [r"(decoder\d|out)\..*"],
        "network": "ViT",
        "versions": {"torch": "2.13.0+cpu"},
        "preprocessing": {"spacing": [1.0, 1.0, 2.5], "axcodes": "RAS", "labels": {"1": "liver"}},
        "fingerprint": {"encoder:norm.weight": DIGEST},
        "facts": {"norm": "LayerNorm eps=1e-05"},
        "positions": {"encoder:patch_embedding.position_embeddings": [4]},
        "tensors_sha256": DIGEST,
    }
    return content | changes


def written(folder: Path, content: object, tensors: object = None, data: bytes = bytes(8)) -> Path:
    """Write a file as safetensors lays it out; ``content`` is the record or its text."""
    text = content if isinstance(content, str) else json.dumps(content)
    entries = {NAME: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} if tensors is None else tensors
    header = json.dumps({"__metadata__": {"monai_essa": text}, **entries}).encode()
    path = folder / "site.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_a_sealed_record_comes_back(tmp_path):
    sealed = seal_record(record(), "site")
    header = read_header(written(tmp_path, sealed))
    assert header.record == sealed and sealed["format_version"] == 2
    assert {name: entry.shape for name, entry in header.tensors.items()} == {NAME: (2,)}


def test_format_1_comes_back():
    new = ("facts", "positions", "tensors_sha256")
    old = {name: value for name, value in record().items() if name not in new} | {"format_version": 1}
    assert check_record(old, "site") == old
    with pytest.raises(ValueError, match="^site: unknown field 'facts'"):
        check_record(old | {"facts": {}}, "site")


@pytest.mark.parametrize("version", [3, 10**6])
def test_a_newer_format_is_refused(version):
    with pytest.raises(ValueError, match=rf"^site has adapter format {version}, this version reads 2; upgrade"):
        check_record({"format_version": version, "wonders": []}, "site")


def test_a_newer_format_that_looks_like_this_one_is_refused():
    """The checksum is that of the record, as a newer version would seal it."""
    content = record(format_version=3)
    sealed = content | {"record_sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}
    with pytest.raises(ValueError, match=r"^site has adapter format 3, this version reads 2; upgrade monai_essa$"):
        check_record(sealed, "site")


@pytest.mark.parametrize("name", seal_record(record(), "site"))
def test_a_field_that_is_missing_or_of_another_type_is_named(name):
    sealed = seal_record(record(), "site")
    with pytest.raises(ValueError, match=rf"^site: the field '{name}' is missing$"):
        check_record({key: value for key, value in sealed.items() if key != name}, "site")
    for wrong in (None, 7.5, {"@": {"b": []}}, [[["x"]]], [None], "\x1b[2J", True):
        with pytest.raises(ValueError, match=rf"^[^\n]*site[^\n]*'{name}'[^\n]*$"):
            check_record(sealed | {name: wrong}, "site")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": [{"name": "os.system", "values": {}}]}, "'methods'[0], field 'name'"),
        ({"methods": [{"name": "APLA", "values": {"columns": float("nan")}}]}, "'columns'"),
        ({"methods": [{"name": "APLA", "values": {"columns": 10**80}}]}, "'columns'"),
        ({"methods": [{"name": "APLA", "values": {"a b": 1}}]}, "'a b'"),
        ({"methods": [{"name": "APLA", "values": {}, "more": 1}]}, "unknown field 'more'"),
        ({"method_tensors": ["decoder:x"]}, "'method_tensors'"),
        ({"also_train": ["(a+)+b"]}, "'also_train'"),
        ({"also_train": ["("]}, "'also_train'"),
        ({"network": "ViT; import os"}, "'network'"),
        ({"fingerprint": {"encoder:norm.weight": "0" * 63}}, "'fingerprint'"),
        ({"fingerprint": {"norm.weight": DIGEST}}, "'fingerprint'"),
        ({"positions": {"encoder:patch_embedding.position_embeddings": [0]}}, "'positions'"),
        ({"preprocessing": {"spacing": [1, 1, "x"]}}, "'spacing'"),
        ({"preprocessing": {"spacing": [1, 1, -1]}}, "'spacing'"),
        ({"preprocessing": {"intensity": "$__import__('os')"}}, "'preprocessing'"),
        ({"preprocessing": {"labels": {"_target_": "os.system"}}}, "'preprocessing'"),
        ({"preprocessing": {"note": "two\nlines"}}, "'note'"),
        ({"wonders": 1}, "unknown field 'wonders'"),
    ],
)
def test_a_value_that_is_more_or_less_than_it_has_to_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=r"^[^\n]*site[^\n]*$") as refusal:
        seal_record(record(**changes), "site")
    assert said.strip("'") in str(refusal.value)


def test_a_record_that_was_changed_is_seen():
    sealed = seal_record(record(), "site")
    for change in ({"network": "UNETR"}, {"facts": {}}, {"methods": []}, {"record_sha256": DIGEST}):
        with pytest.raises(ValueError, match="^site: the record does not have the checksum"):
            check_record(sealed | change, "site")


BOMB = "[" * 100_000


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '{"format_version":1}', BOMB, '{"methods":' + BOMB, "NaN"]
)
def test_a_record_that_is_no_record_is_one_line(text, tmp_path):
    with pytest.raises(ValueError, match=r"^[^\n]*site\.safetensors[^\n]*$"):
        read_header(written(tmp_path, text))


def test_nested_values_are_refused_before_they_are_walked(tmp_path):
    deep: list = []
    for _ in range(300):
        deep = [deep]
    sealed = seal_record(record(), "site") | {"preprocessing": {"labels": deep}}
    with pytest.raises(ValueError, match="at most 12 levels"):
        read_header(written(tmp_path, sealed))


@pytest.mark.parametrize(
    "tensors",
    [
        {NAME: {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {NAME: {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}},
        {NAME: {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {NAME: {"dtype": "F32", "shape": [10**12, 10**12], "data_offsets": [0, 8]}},
        {NAME: {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}},
        {NAME: {"dtype": "object", "shape": [2], "data_offsets": [0, 8]}},
        {NAME: {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}},
        {NAME: {"dtype": "F32", "shape": [2]}},
        {NAME: None},
        {"../x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {},
    ],
)
def test_an_entry_that_does_not_fit_the_file_is_refused(tensors, tmp_path):
    with pytest.raises(ValueError, match=r"^[^\n]*site\.safetensors[^\n]*$"):
        read_header(written(tmp_path, seal_record(record(method_tensors=[]), "site"), tensors))


LENGTH_4 = struct.pack("<Q", 4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        bytes(8),
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xfe{}",
        b"\x04" + bytes(7) + b"null",
    ],
)
def test_a_file_that_is_none_is_one_line(content, tmp_path):
    path = tmp_path / "site.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*site\.safetensors[^\n]*$"):
        read_header(path)


def test_names_that_stand_twice_and_tensors_that_are_missing_are_refused(tmp_path):
    sealed = json.dumps(seal_record(record(), "site"))
    with pytest.raises(ValueError, match="a name stands twice"):
        read_header(written(tmp_path, sealed[:-1] + ', "network": "UNETR"}'))
    with pytest.raises(ValueError, match=rf"lacks '{NAME}' \(1 tensors\)"):
        read_header(written(tmp_path, sealed, {}, b""))
    both = seal_record(record(fingerprint={NAME: DIGEST}), "site")
    with pytest.raises(ValueError, match="both a tensor of the file and one of the base's"):
        read_header(written(tmp_path, both))


@pytest.mark.parametrize(
    "card", [{"spacing": object()}, {"a": float("inf")}, {"@x": 1}, {"labels": ["%x"]}, {"spacing": [0, -1]}]
)
def test_a_card_that_is_more_than_plain_values_is_refused(card):
    with pytest.raises(ValueError, match=r"^card[^\n]*$"):
        check_card(card, "card")


def test_a_card_is_as_json_has_it():
    assert check_card(None, "card") == {}
    assert check_card({"spacing": None, "labels": ("a", "b")}, "card") == {"spacing": None, "labels": ["a", "b"]}


def test_methods_are_written_as_in_python():
    assert methods_text(record()) == repr(APLA(columns=2)) == "APLA(columns=2, seed=0)"


def test_a_header_is_read_without_torch_and_monai(tmp_path):
    path = written(tmp_path, seal_record(record(), "site"))
    script = (
        "import sys; from monai_essa.adapters.record import read_header; read_header(sys.argv[1]); "
        "print({'torch', 'monai', 'numpy', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "set()"


def test_checking_leaves_what_came_alone():
    sealed = seal_record(record(), "site")
    before = copy.deepcopy(sealed)
    check_record(sealed, "site")
    assert sealed == before
