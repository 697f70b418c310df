# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The table of methods and networks in the README and the docs says what the contract test runs, cell by cell."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- made by tests/test_method_table.py from tests/test_contract.py -->\n", "<!-- end of the table -->"


@pytest.fixture(scope="module")
def contract() -> ModuleType:
    spec = importlib.util.spec_from_file_location("contract_of_the_table", ROOT / "tests" / "test_contract.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["contract_of_the_table"] = module
    spec.loader.exec_module(module)
    return module


def table(contract: ModuleType) -> str:
    """A row for each method, a column for each network class; "yes" where every variant of the network fits."""
    classes = {
        name: "described" if name.startswith("described") else type(contract.build(name)[0]).__name__
        for name in contract.NETWORKS
    }
    classes = {name: kind for name, kind in classes.items() if kind != "Sequential"}  # classifiers: as their encoder
    columns = list(dict.fromkeys(classes.values()))
    rows: dict[str, list[bool]] = {}
    lines = []
    for row in contract.METHODS.values():
        if not isinstance(row.method, list):
            rows.setdefault(type(row.method).__name__, []).append(row.merges)
    for method, merges in rows.items():
        cells = [cell(contract, classes, method, column) for column in columns]
        lines.append(f"| {method} | {' | '.join(cells)} | {'yes' if all(merges) else 'no'} |")
    head = f"| method | {' | '.join(columns)} | merges |\n|{' --- |' * (len(columns) + 2)}\n"
    return head + "\n".join(lines) + "\n"


def cell(contract: ModuleType, classes: dict[str, str], method: str, column: str) -> str:
    held = {
        network
        for name, network in contract.FITTING
        if not isinstance(contract.METHODS[name].method, list)
        and type(contract.METHODS[name].method).__name__ == method
        and classes.get(network) == column
    }
    wanted = {network for network, kind in classes.items() if kind == column}
    return "–" if not held else "yes" if held == wanted else "partly"


@pytest.mark.parametrize("page", ["README.md", "docs/concepts/methods.md"])
def test_table_is_what_the_contract_holds(contract, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown == table(contract), f"put this between the two marks in {page}:\n{table(contract)}"
