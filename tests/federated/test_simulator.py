# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""NVIDIA FLARE's simulator runs a job: three sites, one that fails, one whose run is killed, one that cheats."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import ViT

from monai_essa.demo.cohort import CohortSize, make_cohort
from monai_essa.federated.exchange import Start, averaged, read_start
from monai_essa.federated.job import FederatedJob, write_job
from monai_essa.federated.site import SITES, FederatedStage
from tests.federated.conftest import SIZES

pytest.importorskip("nvflare", reason="NVIDIA FLARE is not installed; make test-federated has it")
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.app_constant import AppConstants

from monai_essa.federated.components import AdapterAggregator

pytestmark = pytest.mark.slow
SECTIONS = {"north": "source#unlabeled", "south": "target#unlabeled", "west": "target#training"}  # of the demo cohort
NAMES = tuple(SECTIONS)
GLOBAL = "server/simulate_job/global"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort") / "demo", CohortSize(4, 4, 4, validation=0, test=0))


@pytest.fixture
def sites(cohort: Path, base: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sites"
    folder.mkdir()
    for name, section in SECTIONS.items():
        values = {"pretrained": str(base), "datalist": str(cohort), "section": section}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def no_simulator_outlives_its_test(tmp_path: Path) -> Iterator[None]:
    yield
    for process in _processes(str(tmp_path)):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _started(job: Path, sites: Path, workspace: Path) -> subprocess.Popen[bytes]:
    """Start the commands of the docs, with their output in a file."""
    (workspace / "local").mkdir(parents=True)
    shutil.copy(job / "resources.json", workspace / "local")
    flare = Path(sys.executable).with_name("nvflare")
    command = [str(flare), "simulator", str(job), "-w", str(workspace), "-c", ",".join(NAMES), "-t", "3"]
    with workspace.with_suffix(".said").open("wb") as said:  # FLARE clears the workspace
        variables = {**os.environ, SITES: str(sites)}
        return subprocess.Popen(command, env=variables, stdout=said, stderr=said, start_new_session=True)


def _simulated(job: Path, sites: Path, workspace: Path) -> str:
    """Run the commands of the docs, and return the output."""
    _started(job, sites, workspace).wait(timeout=900)
    return workspace.with_suffix(".said").read_text(encoding="utf-8")


def _until(holds: Callable[[], bool], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.2)


def _processes(*words: str) -> list[int]:
    """The processes whose command line has all of some words."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended
        if all(word in line for word in words):
            found.append(int(place.name))
    return found


def test_three_sites_make_an_adapter_that_any_of_them_can_load(
    job: Path, sites: Path, start: Start, tmp_path: Path
) -> None:
    said = _simulated(job, sites, tmp_path / "workspace")
    server = tmp_path / "workspace" / GLOBAL
    assert (server / "round_1.json").is_file(), said[-3000:]
    result, reference = read_start(server).values(), start.values()
    assert any(not np.array_equal(result[name], reference[name]) for name in reference)

    rounds = tmp_path / "workspace" / "{}" / "simulate_job" / "rounds"
    last = {name: read_start(Path(str(rounds).format(name)) / "round_1") for name in NAMES}
    weights = {
        name: json.loads((Path(str(rounds).format(name)) / "round_1" / "loss_weight.json").read_text())["weight"]
        for name in NAMES
    }
    before = read_start(Path(str(rounds).format("north")) / "round_1_start").values()
    expected = averaged({name: (last[name].values(), weights[name]) for name in NAMES}, start, before)
    assert all(np.allclose(result[name], expected.values[name], atol=1e-7) for name in reference)
    shares = json.loads((server / "round_1.json").read_text(encoding="utf-8"))["shares"]
    assert shares == pytest.approx(expected.shares)


def test_a_site_with_another_base_is_left_out_and_the_others_go_on(job: Path, sites: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(ViT(1, (32, 32, 32), 16, 48, 96, 12, 4, qkv_bias=True).state_dict(), tmp_path / "other.pt")
    values = yaml.safe_load((sites / "west.yaml").read_text(encoding="utf-8")) | {
        "pretrained": str(tmp_path / "other.pt")
    }
    (sites / "west.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    said = _simulated(job, sites, tmp_path / "workspace")
    server = tmp_path / "workspace" / GLOBAL
    assert set(json.loads((server / "round_1.json").read_text(encoding="utf-8"))["shares"]) == {"north", "south"}, said
    assert "round 0 of west: the round failed" in said and "another base" in said


def test_the_others_go_on_without_a_killed_client_and_a_next_job_after_a_killed_server(
    base: Path, sites: Path, tmp_path: Path
) -> None:
    stage = FederatedStage("essa_ssa", values=SIZES | {"batch_size": 2})
    write_job(FederatedJob(NAMES, stage, rounds=9, steps=1, wait=0.05), base, tmp_path / "job")
    workspace, server = tmp_path / "workspace", tmp_path / "workspace" / GLOBAL
    simulator = _started(tmp_path / "job", sites, workspace)
    _until((workspace / "north/simulate_job/rounds/round_0.log").is_file)
    (client,) = _processes("simulator_worker", str(workspace / "north"))
    os.kill(client, signal.SIGKILL)
    _until((server / "round_1.json").is_file)
    for number in (0, 1):
        row = json.loads((server / f"round_{number}.json").read_text(encoding="utf-8"))
        assert set(row["shares"]) == {"south", "west"}
    assert not _processes("round_0.yaml", str(workspace / "north"))

    _until((workspace / "south/simulate_job/rounds/round_2.log").is_file)
    os.killpg(simulator.pid, signal.SIGKILL)
    simulator.wait()
    _until(lambda: not _processes(str(workspace)), 60)  # no client, and no training
    average = read_start(server).values()
    write_job(FederatedJob(NAMES, stage, rounds=1, steps=1), base, tmp_path / "next", start=server)
    said = _simulated(tmp_path / "next", sites, tmp_path / "again")
    assert set(json.loads((tmp_path / "again" / GLOBAL / "round_0.json").read_text())["shares"]) == set(NAMES), said
    begun = read_start(tmp_path / "again/north/simulate_job/rounds/round_0_start").values()
    assert all(np.array_equal(begun[name], average[name]) for name in average)


@pytest.fixture
def server(job: Path, start: Start, tmp_path: Path) -> Any:
    """An aggregator in the second round of a job, with what it asks FLARE for."""
    shutil.copytree(job / "app", tmp_path / "app")

    class Workspace:
        def get_app_dir(self, job_id: str) -> str:
            return str(tmp_path / "app")

        def get_run_dir(self, job_id: str) -> str:
            return str(tmp_path / "run")

    class Engine:
        def get_workspace(self) -> Workspace:
            return Workspace()

    context = FLContext()
    context.get_engine = lambda: Engine()
    context.get_job_id = lambda *default: "job"
    context.set_prop(AppConstants.GLOBAL_MODEL, make_model_learnable(start.values(), {}), private=True, sticky=False)
    context.set_prop(AppConstants.CURRENT_ROUND, 1, private=True, sticky=False)
    aggregator = AdapterAggregator()
    aggregator.log_error = lambda *arguments, **named: None
    return aggregator, context


def _accepts(server: Any, site: str, values: Any, weight: Any) -> bool:
    aggregator, context = server
    peer = FLContext()
    peer.get_identity_name = lambda *default: site
    context.get_peer_context = lambda: peer
    return bool(aggregator.accept(DXO(DataKind.WEIGHTS, values, {"weight": weight}).to_shareable(), context))


def test_a_malicious_adapter_is_refused_or_left_out_and_named(server: Any, start: Start, tmp_path: Path) -> None:
    reference, draw = start.values(), np.random.default_rng(0)
    honest = {name: (own + 1e-3 * draw.normal(size=own.shape)).astype(own.dtype) for name, own in reference.items()}
    name = next(iter(reference))
    assert _accepts(server, "north", honest, 2.0) and _accepts(server, "south", honest, 2.0)
    assert not _accepts(server, "nan", honest | {name: np.full_like(reference[name], np.nan)}, 1.0)
    assert not _accepts(server, "shape", honest | {name: np.zeros(1, dtype=np.float32)}, 1.0)
    assert not _accepts(server, "weight", honest, float("inf"))
    assert not _accepts(server, "more", honest | {"adapter/other": np.zeros(1, dtype=np.float32)}, 1.0)
    assert _accepts(server, "pull", {key: value + 5 for key, value in honest.items()}, 1e9)
    aggregator, context = server
    aggregator.aggregate(context)
    row = json.loads((tmp_path / "run" / "global" / "round_1.json").read_text(encoding="utf-8"))
    assert row["shares"] == {"north": 0.5, "south": 0.5}
    assert set(row["left_out"]) == {"nan", "shape", "weight", "more", "pull"}


def test_a_server_that_is_started_again_goes_on_from_the_last_average(
    server: Any, start: Start, tmp_path: Path
) -> None:
    from monai_essa.federated.components import AdapterPersistor

    _, context = server
    persistor = AdapterPersistor()
    persistor.log_info = lambda *arguments, **named: None
    learnable = persistor.load(context)
    assert all(np.array_equal(learnable["weights"][name], own) for name, own in start.values().items())
    later = {name: value + 1 for name, value in start.values().items()}
    persistor.save(make_model_learnable(later, {}), context)
    again = AdapterPersistor().load(context)["weights"]
    assert all(np.allclose(again[name], later[name]) for name in later)
