# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`demo` hands its options to the demo and its result back."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import monai_essa.demo

RUN_DEMO = inspect.signature(monai_essa.demo.run_demo)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    called: list[Any] = []

    def run_demo(data: Path | None, output: Path, seed: int) -> int:
        RUN_DEMO.bind(data, output, seed)
        called.append((data, output, seed))
        return 3

    monkeypatch.setattr(monai_essa.demo, "run_demo", run_demo)
    return called


def test_the_demo_needs_no_options(monai_essa, demo: list[Any]) -> None:
    assert monai_essa("demo").code == 3
    assert demo == [(None, Path("runs/demo"), 0)]


def test_the_options_are_handed_over(monai_essa, demo: list[Any]) -> None:
    monai_essa("demo", "--data", "scans", "--output", "out", "--seed", 5)
    assert demo == [(Path("scans"), Path("out"), 5)]
