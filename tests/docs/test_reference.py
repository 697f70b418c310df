# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The reference has every public name, and the tables of the pages their numbers."""

from __future__ import annotations

import re
from importlib import import_module

import pytest
from monai.networks.nets import ViT

from monai_essa import adapt, methods, summary
from tests.docs.shown_commands import ROOT

PACKAGES = (
    "methods",
    "pretext",
    "weights",
    "anatomy",
    "efficiency",
    "cost",
    "data",
    "data.transforms",
    "engines",
    "evaluation",
)
SHOWN = {
    name
    for page in (ROOT / "docs" / "reference").glob("*.md")
    for name in re.findall("^::: (.*)$", page.read_text("utf-8"), re.M)
}
ROWS = re.findall(
    r"^\| `(\w+)\((.*?)\)` \|.*?\| ([\d,]+) \| ([\d.]+) \|",
    (ROOT / "docs/concepts/methods.md").read_text("utf-8"),
    re.M,
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    assert {f"monai_essa.{package}.{name}" for name in import_module(f"monai_essa.{package}").__all__} <= SHOWN


def test_every_name_of_the_front_door_is_in_the_reference() -> None:
    public = set(import_module("monai_essa").__all__) - {"__version__"}
    assert public <= {name.rpartition(".")[2] for name in SHOWN}


@pytest.mark.parametrize(("name", "values", "learned", "megabytes"), ROWS, ids=[f"{row[0]}({row[1]})" for row in ROWS])
def test_numbers_of_the_table_of_methods(name: str, values: str, learned: str, megabytes: str) -> None:
    """Of a ViT-B with one block: what eleven more add is counted."""
    options = {key: int(value) for key, value in (pair.split("=") for pair in values.split(", ") if pair)}
    one, two = (_learned(layers, getattr(methods, name)(**options)) for layers in (1, 2))
    parameters, size = (first + 11 * (second - first) for first, second in zip(one, two, strict=True))
    assert (f"{parameters:,}", f"{size / 1e6:.1f}") == (learned, megabytes)


def _learned(layers: int, method: methods.AdaptationMethod) -> tuple[int, int]:
    counted = summary(adapt(ViT(1, (96, 96, 96), 16, num_layers=layers, qkv_bias=True), method))
    return counted.parts["encoder"][0], counted.adapter_bytes


def test_the_table_of_methods_has_all_rows() -> None:
    assert len(ROWS) == 9
