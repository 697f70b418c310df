# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The benchmark of a GPU runs on a CPU in small, and says what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.contenders import STOCK
from benchmarks.gpu import main


def test_a_quick_run_writes_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--out", str(tmp_path / "gpu.json")])
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found["contenders"][STOCK.name]["time_ratio"] == 1.0
    assert {"ours, APLA, fast bf16", "ours, APLA, small bf16"} <= found["contenders"].keys()
    assert all(f"| {name} | " in shown for name in found["contenders"])
    assert "time" in shown and "aimed at 0.72" in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_how_to_try_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "there is no GPU here; --quick" in capsys.readouterr().err
