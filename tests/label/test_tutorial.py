# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""The tutorial of MONAI Label runs: a server, its client, a training and an undo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tutorials" / "6_monai_label.py"
SECONDS = 1500  # 90 on two idle cores; here it ends what hangs, on slow machines too


@pytest.mark.full  # test_server.py has the same server, client, trainings and undo, on smaller volumes
@pytest.mark.slow  # a minute and a half: the demo cohort, a server, two trainings
def test_script_runs_in_a_fresh_folder_without_data(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DATA"}
    environment |= {"MPLBACKEND": "Agg", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    shown = done.stdout.splitlines()
    assert shown.count("DONE") == 2 and shown[-1] == "stopped"
    assert "model.pt unchanged: True" in shown
    assert "scanner_b still offered: False - the base: True" in shown
