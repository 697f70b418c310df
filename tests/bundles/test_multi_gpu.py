# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Bundles in two processes: the files, the losses and the scores of one process; a lost one ends the other."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.networks.nets import ViT

from tests.bundles.conftest import BUNDLES, TRAINING, VALUES, RunBundle
from tests.bundles.test_resume import iterations_done, results
from tests.distributed.torchrun import free_port, variables
from tests.forked import run_ranks, start_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no gloo over TCP here, and no SIGKILL")
MULTI = "multi_gpu_train.yaml"
# Two epochs of two steps. Two scans of six are held out for the pretext loss; three cases are scored.
STEPS = {"max_epochs": 2, "samples_per_epoch": 4, "hold_out": 3}

SCORED = ("essa_segmentation", "essa_classification")


@pytest.fixture(scope="module")
def site(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, and with the datalists of segmentation and of classification."""
    folder = tmp_path_factory.mktemp("site")
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
    torch.save(ViT(1, (32, 32, 32), 16, qkv_bias=True, **sizes).state_dict(), folder / "vit.pt")
    images = [str(volumes / f"image_{number:02d}.nii.gz") for number in range(12)]
    maps = [{"image": images[n], "label": str(volumes / f"label_{n:02d}.nii.gz")} for n in range(6)]
    classes = [{"image": images[n], "label": n % 2} for n in range(6)]
    scans = [{"image": image} for image in images[6:]]
    (folder / "maps.json").write_text(
        json.dumps({"training": maps[:3], "validation": maps[3:], "unlabeled": scans}), encoding="utf-8"
    )
    (folder / "classes.json").write_text(
        json.dumps({"training": classes[:3], "validation": classes[3:]}), encoding="utf-8"
    )
    return folder


def values(bundle: str, site: Path, batch_size: int, output: Path) -> dict[str, Any]:
    """The values of a run; batch_size is that of each process."""
    own = {"pretrained": str(site / "vit.pt"), "datalist": str(site / "maps.json"), "output_dir": str(output)}
    if bundle in SCORED:
        own["start"] = "encoder"
    if bundle == "essa_classification":
        own["datalist"] = str(site / "classes.json")
    if bundle == "essa_segmentation":
        own["validate#inferer#overlap"] = 0.0  # an eighth of the windows
        # AdamW divides by the size of a gradient, and before an instance norm gradients are rounding errors.
        own["optimizer#_target_"] = "torch.optim.SGD"
    steps = {key: value for key, value in STEPS.items() if bundle not in SCORED or key != "hold_out"}
    return VALUES[bundle] | TRAINING | steps | own | {"batch_size": batch_size}


def scoring(bundle: str, site: Path, output: Path) -> dict[str, Any]:
    own = values(bundle, site, 1, output)
    return {key: value for key, value in own.items() if key != "max_epochs"} | {"validation_section": "validation"}


def run_all(rank: int, site: str, folder: str, port: int) -> None:
    """As one of two processes: train each bundle, then evaluate what has labels."""
    torch.set_num_threads(1)
    os.environ.update(variables(rank, port))
    for bundle in VALUES:
        own = values(bundle, Path(site), 1, Path(folder) / bundle)
        _run(bundle, ["train.yaml", MULTI], own)
        if bundle in SCORED:
            _run(bundle, ["train.yaml", MULTI, "evaluate.yaml"], scoring(bundle, Path(site), Path(folder) / bundle))


def _run(bundle: str, files: list[str], own: dict[str, Any]) -> None:
    configs = [str(BUNDLES / bundle / "configs" / file) for file in files]
    workflow = ConfigWorkflow(configs, logging_file=False, workflow_type="train", **own)
    handlers = workflow.parser["train#handlers"]
    workflow.parser["train#handlers"] = [handler for handler in handlers if "CostFile" not in str(handler)]
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@pytest.fixture(scope="module")
def two_processes(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run_ranks(run_all, str(site), str(folder), free_port())
    return folder


def assert_close_results(one: Path, other: Path) -> None:
    (adapter, model, losses), (adapter_2, model_2, losses_2) = results(one), results(other)
    for first, second in ((adapter, adapter_2), (model, model_2)):
        assert first.keys() == second.keys()
        assert all(torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-5) for name in first)
    rows, rows_2 = ([json.loads(line) for line in text.splitlines()] for text in (losses, losses_2))
    assert len(rows) == len(rows_2)
    for row, row_2 in zip(rows, rows_2, strict=True):
        assert row["loss"] == pytest.approx(row_2["loss"], abs=1e-5)
        assert row.get("validation") == pytest.approx(row_2.get("validation"), abs=1e-4)


@pytest.mark.parametrize("bundle", sorted(VALUES))
def test_two_processes_leave_what_one_process_leaves(
    bundle: str, site: Path, two_processes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    run_bundle(bundle, "train.yaml", **values(bundle, site, 2, tmp_path / "one"))
    one, two = tmp_path / "one", two_processes / bundle
    assert_close_results(one, two)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()} - {"test"}
    assert len(list((two / "tensorboard").iterdir())) == 1  # of the first process
    record, record_2 = (json.loads((run / "run.json").read_text(encoding="utf-8")) for run in (one, two))
    assert record["config"] == record_2["config"] and record_2["status"] == "finished"
    if bundle in SCORED:
        run_bundle(bundle, "train.yaml", "evaluate.yaml", **scoring(bundle, site, one))
        files = [run / "test" / "metrics.json" for run in (one, two)]
        scores, scores_2 = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        assert scores.get("cases", scores.get("images")) == 3
        assert _numbers(scores) == pytest.approx(_numbers(scores_2), abs=1e-3, nan_ok=True)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [number for part in (value.values() if isinstance(value, dict) else value) for number in _numbers(part)]
    return [float(value)] if isinstance(value, int | float) else []


Start = Callable[..., Any]


@pytest.fixture
def start(site: Path, tmp_path: Path) -> Start:
    """Starts a process of a run of essa_ssa; more values go over those of the run."""

    def begin(rank: int, port: int, count: int = 2, **more: Any) -> Any:
        own = values("essa_ssa", site, 1, tmp_path / "run")
        own |= {"max_epochs": 8, "train#handlers#0#every": 1, "process_timeout": 60} | more
        files = ["train.yaml", MULTI]
        own["config_file"] = [str(BUNDLES / "essa_ssa" / "configs" / name) for name in files]
        handlers = tmp_path / "handlers.yaml"
        handlers.write_text("train#handlers#2: {_target_: monai_essa.engines.SamplerEpoch}\n", encoding="utf-8")
        own["config_file"].append(str(handlers))  # in the place of the meter, which takes most of the time
        folder = tmp_path / str(rank)
        folder.mkdir(exist_ok=True)
        (folder / "site.json").write_text(json.dumps(own), encoding="utf-8")
        command = ["-m", "monai.bundle", "run", "--args_file", str(folder / "site.json")]
        return start_python(*command, env=variables(rank, port, count), output=folder)

    return begin


def said(tmp_path: Path, rank: int) -> str:
    return "".join((tmp_path / str(rank) / name).read_text(encoding="utf-8") for name in ("out", "err"))


def last_line(tmp_path: Path, rank: int) -> str:
    printed = said(tmp_path, rank).replace(f"[rank{rank}]: ", "")  # torch's mark
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert lines, said(tmp_path, rank)[-2000:]
    return lines[-1]


def wait(processes: list[Any], seconds: float = 150) -> list[int]:
    """The exit codes; a process that has not ended by then is an orphan."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.1, until - time.monotonic()))
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive, "a process hangs"
    return [process.exitcode for process in processes]


def until_iteration(iteration: int, run: Path, processes: list[Any]) -> None:
    while all(process.is_alive() for process in processes) and iterations_done(run) < iteration:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_goes_on_after_a_lost_process_and_in_another_number_of_them(
    start: Start, site: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # A rank is killed: the other one ends by itself and says why.
    processes = [start(rank, port) for port in [free_port()] for rank in (0, 1)]
    until_iteration(3, run, processes)
    os.kill(processes[1].pid, signal.SIGKILL)
    codes = wait(processes)
    assert codes[0] not in (0, -signal.SIGKILL) and codes[1] == -signal.SIGKILL, said(tmp_path, 0)
    assert "process 0 has lost another process" in last_line(tmp_path, 0)
    done = iterations_done(run)
    assert done >= 3

    # SIGTERM to one of the two ends both after the same iteration.
    processes = [start(rank, port) for port in [free_port()] for rank in (0, 1)]
    until_iteration(done + 2, run, processes)
    processes[1].terminate()
    assert wait(processes) == [143, 143], said(tmp_path, 0)
    stopped = [re.search(r"stopped by SIGTERM after iteration (\d+)", said(tmp_path, rank)) for rank in (0, 1)]
    assert stopped[0] and stopped[1] and stopped[0][1] == stopped[1][1] == str(iterations_done(run))

    # One process goes on with a batch as large as both had, and ends as if it had been alone.
    own = values("essa_ssa", site, 2, run) | {"max_epochs": 8}
    run_bundle("essa_ssa", "train.yaml", **own)
    run_bundle("essa_ssa", "train.yaml", **(own | {"output_dir": str(tmp_path / "alone")}))
    assert_close_results(tmp_path / "alone", run)


@pytest.mark.slow
def test_processes_that_do_not_fit_end_with_one_line(start: Start, site: Path, tmp_path: Path) -> None:
    # Another base: both processes say so.
    torch.manual_seed(1)
    other = ViT(1, (32, 32, 32), 16, 48, 96, 12, 4, qkv_bias=True)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    port = free_port()
    processes = [start(0, port), start(1, port, pretrained=str(tmp_path / "other.pt"))]
    codes = wait(processes)
    assert 0 not in codes
    for rank in (0, 1):
        assert re.search("expected the same (configuration|base)", last_line(tmp_path, rank)), said(tmp_path, rank)

    # Nobody answers, and the port is another program's: a process waits no longer than it says.
    (tmp_path / "run" / "run.json").unlink(missing_ok=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        processes = [start(1, free_port(), process_timeout=3), start(0, taken.getsockname()[1], process_timeout=3)]
        assert 0 not in wait(processes)
    assert "process 1 cannot join the others at 127.0.0.1" in last_line(tmp_path, 1)
    assert "process 0 cannot join the others at 127.0.0.1" in last_line(tmp_path, 0)


@pytest.mark.full
@pytest.mark.slow  # torchrun, and each worker before and after the kill, import torch and MONAI anew
def test_torchrun_starts_a_run_again_that_has_lost_a_process(site: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    own = values("essa_ssa", site, 1, tmp_path / "run") | {"max_epochs": 8, "train#handlers#0#every": 1}
    own["config_file"] = [str(BUNDLES / "essa_ssa" / "configs" / name) for name in ("train.yaml", MULTI)]
    (tmp_path / "site.json").write_text(json.dumps(own), encoding="utf-8")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max_restarts=2"]
    command += ["-m", "monai.bundle", "run", "--args_file", str(tmp_path / "site.json")]
    torchrun = start_python(*command, env={"OMP_NUM_THREADS": "1"}, output=tmp_path)
    until_iteration(3, tmp_path / "run", [torchrun])
    workers = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text(encoding="ascii").split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    assert wait([torchrun], 600) == [0], (tmp_path / "err").read_text(encoding="utf-8")[-3000:]
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["status"] == "finished"
    one = values("essa_ssa", site, 2, tmp_path / "alone") | {"max_epochs": 8}
    run_bundle("essa_ssa", "train.yaml", **one)
    assert_close_results(tmp_path / "alone", tmp_path / "run")
