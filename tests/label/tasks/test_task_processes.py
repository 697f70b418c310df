# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monailabel.utils.async_tasks import utils as background

from monai_essa.label.tasks.processes import end_with_server, one_training, task_in_progress
from tests.label.conftest import serve_command

MODEL = "ball_segmentation"
HOLD = "import sys, time; from pathlib import Path; from monai_essa.label.tasks.processes import one_training\n"
HOLD += "with one_training(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(600)"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains in the folder ``runs``."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "runs")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_killed_training_leaves_no_lock(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(RuntimeError, match=rf"runs: a training is running already, in process '{holder.pid}'"):
        with one_training(runs):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with one_training(runs):
        assert (runs / "training.pid").read_text() == f"{os.getpid()}\n"
    assert not (runs / "training.pid").exists()


@pytest.mark.parametrize("server", ["1", "x", ""])
def test_a_process_that_is_no_task_of_a_server_goes_on(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_ESSA_LABEL_SERVER", server)
    end_with_server()


def test_the_running_task_comes_before_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    states = ("DONE", "ERROR", "RUNNING", "SUBMITTED")
    monkeypatch.setitem(background.background_tasks, "train", [{"status": state} for state in states])
    assert task_in_progress("train") == {"status": "RUNNING"}
    background.background_tasks["train"].pop(2)
    assert task_in_progress("train") == {"status": "SUBMITTED"}
    background.background_tasks["train"].pop()
    assert task_in_progress("train") is None


@pytest.mark.slow  # starts a server and a training
def test_a_killed_server_takes_its_training_along(
    app: Path, datastore: Any, studies: Path, open_server: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "server").mkdir()
    command = serve_command(app, studies, "--origin", "https://label.example.org")
    pid = app / "model" / MODEL / "runs" / "training.pid"
    log = tmp_path / "server" / "server.log"
    with open_server(command, app, studies, log, MONAI_LABEL_AUTO_UPDATE_SCORING="false") as server:
        body, headers = json.dumps({"max_epochs": 1000}).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{server.url}/train/{MODEL}", body, headers | {"Origin": "https://label.example.org"}, method="POST"
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "https://label.example.org"
        while not pid.is_file() or not pid.read_text():
            assert server.process.poll() is None, log.read_text()[-4000:]
            time.sleep(0.2)
        training = psutil.Process(int(pid.read_text()))
        assert training.parent().pid == server.process.pid

        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        training.wait(timeout=10)
    with one_training(pid.parent):
        pass
