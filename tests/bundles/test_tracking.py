# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A run with the overlay of MLflow is one run of a real local store, with every loss, the metric and the rate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

RunBundle = Callable[..., ConfigWorkflow]


def test_a_run_is_tracked_with_its_losses_and_its_metric(
    volumes: Path, run_bundle: RunBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: the extra [tracking]")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{(tmp_path / 'mlruns.db').as_posix()}"
    files = ("train.yaml", "network_segresnet.yaml", "start_random.yaml", "tracking_mlflow.yaml")
    values = {"dataset_dir": volumes, "output_dir": tmp_path / "first", "tracking_uri": uri, "max_epochs": 2}
    run_bundle("essa_segmentation", *files, **values)

    client = mlflow.MlflowClient(uri)
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
