# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A round of three sites, each with its whole data in one batch: the average of its steps is the step on all of it.

It is so for one plain step. For five steps of AdamW it is not, and the gap is printed: pytest -s -k five_steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import ViT

from monai_essa import adapt, adapter_state_dict, load_weights, save_adapter
from monai_essa.engines import prepare_unlabelled_batch
from monai_essa.engines.steps import keyed_rng
from monai_essa.federated.exchange import averaged, read_result, read_start
from monai_essa.federated.job import FederatedJob, write_job
from monai_essa.federated.site import FederatedStage
from monai_essa.methods import APLA
from tests.bundles.conftest import TINY, RunBundle

SITES = {"north": 2, "south": 3, "west": 1}  # scans
# One plain step, without clipping: what an average of steps can be exact for.
STEP = """
method: {{_target_: monai_essa.methods.APLA, columns: {columns}}}
optimizer:
  _target_: torch.optim.SGD
  lr: 0.1
  params: {{_target_: monai_essa.engines.parameter_groups, objective: '@learner', lr: 0.1, weight_decay: 0.0}}
train#step#clip_norm: null
"""


Values = dict[str, np.ndarray]
RunRound = Callable[..., tuple[Values, Values, Values]]


@pytest.mark.parametrize("columns", [None, 8], ids=["all of W_O", "eight columns"])
def test_the_average_of_three_sites_is_the_step_on_all_their_scans(columns: int | None, run_round: RunRound) -> None:
    reference, average, pooled = run_round(STEP.format(columns=columns or "null"), columns)
    assert max(float(np.abs(pooled[name] - reference[name]).max()) for name in pooled) > 1e-4
    for name in pooled:
        np.testing.assert_allclose(average[name], pooled[name], atol=1e-6, rtol=0, err_msg=name)
    assert len(pooled) > 24


def test_the_average_of_five_steps_of_adamw_is_another_but_near(run_round: RunRound) -> None:
    reference, average, pooled = run_round("train#step#clip_norm: null", steps=5)
    gap = _distance(average, pooled) / _distance(pooled, reference)
    print(f"\nfive steps of AdamW: the average is {gap:.3f} of the pooled update away from it")  # noqa: T201
    assert 1e-3 < gap < 1


def _distance(one: Values, other: Values) -> float:
    return float(np.sqrt(sum(np.square(one[name] - other[name], dtype=np.float64).sum() for name in one)))


@pytest.fixture
def run_round(volumes: Path, run_bundle: RunBundle, open_bundle: RunBundle, tmp_path: Path) -> RunRound:
    """Runs a round of all sites, and its steps on the pooled scans: the start, the average and the pooled values."""
    return partial(_round, volumes=volumes, run_bundle=run_bundle, open_bundle=open_bundle, tmp_path=tmp_path)


def _round(
    overlay: str,
    columns: int | None = None,
    steps: int = 1,
    *,
    volumes: Path,
    run_bundle: RunBundle,
    open_bundle: RunBundle,
    tmp_path: Path,
) -> tuple[Values, Values, Values]:
    base, folder = tmp_path / "vit.pt", tmp_path / "job" / "app" / "start"
    torch.manual_seed(0)
    torch.save(ViT(1, (32, 32, 32), 16, 48, 96, 12, 4, qkv_bias=True).state_dict(), base)
    stage = FederatedStage("essa_ssa", values={**TINY, "num_layers": 12})
    write_job(FederatedJob(list(SITES), stage), base, tmp_path / "job")
    if columns is not None:
        _begin_with_columns(columns, base, folder)
    start = read_start(folder)
    (tmp_path / "step.yaml").write_text(overlay, encoding="utf-8")
    files = ("train.yaml", "federated_round.yaml", str(tmp_path / "step.yaml"))
    values: dict[str, Any] = {"pretrained": base, "hold_out": 100, "section": "own", "seed": 1}
    values |= {"round_adapter": folder / "adapter.safetensors", "pretext_head": folder / "pretext_head.safetensors"}

    scans, updates, batches = [str(volumes / f"image_{number:02d}.nii.gz") for number in range(12)], {}, []
    for site, count in SITES.items():
        own, scans = scans[: count + 1], scans[count + 1 :]  # one more, for the validation of the round
        values |= {"datalist": tmp_path / f"{site}.json", "batch_size": count, "samples_per_epoch": steps * count}
        (tmp_path / f"{site}.json").write_text(json.dumps({"own": [{"image": scan} for scan in own]}), encoding="utf-8")
        workflow = run_bundle("essa_ssa", *files, output_dir=tmp_path / site, **values)
        batches.append(list(workflow.parser.get_parsed_content("train#dataloader")))  # keyed: the same again
        weight = json.loads((tmp_path / site / "loss_weight.json").read_text(encoding="utf-8"))["weight"]
        updates[site] = (read_result(tmp_path / site, start), weight)

    pooled_run = open_bundle("essa_ssa", *files, output_dir=tmp_path / "pooled", **values)
    pooled_run.initialize()
    pooled, reference = _steps_on_all(pooled_run, batches), start.values()
    average = averaged(updates, start, reference).values
    return tuple({name: own[name] for name in pooled} for own in (reference, average, pooled))  # type: ignore[return-value]


def _begin_with_columns(columns: int, base: Path, folder: Path) -> None:
    """Write the start anew with a part of W_O; a value of a job cannot name a class."""
    network = ViT(1, (32, 32, 32), 16, 48, 96, 12, 4, qkv_bias=True)
    load_weights(network, base)
    save_adapter(adapt(network, APLA(columns=columns)), folder / "adapter.safetensors")


def _steps_on_all(workflow: Any, batches: list[list[Any]]) -> Values:
    """Take the steps on the batches of all sites together, with the masks that each of them had at its site."""
    learner, optimizer = (workflow.parser.get_parsed_content(name) for name in ("learner", "optimizer"))
    learner.train()
    for step, together in enumerate(zip(*batches, strict=True)):
        losses, weights = [], []
        for batch in together:
            with keyed_rng(torch.device("cpu"), 1, 1, step) as masks:
                parts = learner(*prepare_unlabelled_batch(batch, torch.device("cpu")), generator=masks)
            losses.append(parts["loss"] * parts["weight"])
            weights.append(parts["weight"])
        optimizer.zero_grad()
        (torch.stack(losses).sum() / torch.stack(weights).sum()).backward()
        optimizer.step()
    own = {f"adapter/{name}": value for name, value in adapter_state_dict(learner.encoder).items()}
    own |= {f"head/{name}": value for name, value in learner.state_dict().items() if not name.startswith("encoder.")}
    return {name: value.float().numpy() for name, value in own.items() if value.is_floating_point()}
