# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A run with the overlay of MLflow is one run of a real local store or server, with every loss, metric and rate."""

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

import pytest
from monai.bundle import ConfigWorkflow

from tests.distributed.torchrun import free_port

RunBundle = Callable[..., ConfigWorkflow]
_PATIENCE = 300  # seconds that a server may take to answer


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.full)])
def tracking_uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store in a file, or an MLflow server of its own on this computer."""
    pytest.importorskip("mlflow", reason="mlflow is not installed: the extra [tracking]")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = f"sqlite:///{(tmp_path / 'mlruns.db').as_posix()}"
    if request.param == "file":
        yield store
        return
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--default-artifact-root", str(tmp_path / "artifacts")]
    with (tmp_path / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # the server and its worker
            server.wait(60)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not answer: {log.read_text(encoding='utf-8')[-2000:]}")


def test_a_run_is_tracked_with_its_losses_and_its_metric(
    tracking_uri: str, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    import mlflow

    files = ("train.yaml", "network_segresnet.yaml", "start_random.yaml", "tracking_mlflow.yaml")
    values = {"dataset_dir": volumes, "output_dir": tmp_path / "first", "tracking_uri": tracking_uri, "max_epochs": 2}
    run_bundle("essa_segmentation", *files, **values)

    client = mlflow.MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("monai_essa")
    (run,) = client.search_runs(experiment.experiment_id)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    losses = client.get_metric_history(run.info.run_id, "training_loss")
    assert [entry.step for entry in losses] == [1, 2, 3, 4]
    assert "lr_group_0" in run.data.metrics
    rows = [json.loads(row) for row in (tmp_path / "first" / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"dice_1", "dice_2"} <= run.data.metrics.keys()
    dice = client.get_metric_history(run.info.run_id, "val_mean_dice")
    assert [(entry.step, round(entry.value, 4)) for entry in dice] == [
        (row["epoch"], round(row["validation"]["val_mean_dice"], 4)) for row in rows
    ]
