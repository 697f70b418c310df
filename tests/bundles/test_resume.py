# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A bundle run that is killed and started again by the same command ends as the unbroken run does, to the last bit."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

from monai_essa.error_line import root_cause
from tests.forked import run_python, start_python

RunBundle = Callable[..., ConfigWorkflow]
BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
# 3 epochs of 4 iterations, a checkpoint after every second one.
STEPS = {"max_epochs": 3, "batch_size": 1, "samples_per_epoch": 4, "cache_rate": 0.0, "train#handlers#0#every": 2}
TINY = {"img_size": [32, 32, 32], "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
SIZES: dict[str, dict[str, Any]] = {
    "essa_ssa": TINY | {"num_layers": 12},
    "essa_tpp": TINY | {"num_layers": 12},
    "essa_segmentation": TINY | {"feature_size": 8, "labels": {"background": 0, "anterior": 1, "posterior": 2}},
    "essa_classification": TINY | {"num_layers": 12},
}


def iterations_done(run: Path) -> int:
    """The iteration of the newest checkpoint; 0 for a run that has begun, -1 for none."""
    if not (run / "run.json").exists():
        return -1
    numbers = [re.match(r"resume_(\d+)-", path.name) for path in (run / "resume").glob("resume_*.pt")]
    return max((int(number[1]) for number in numbers if number), default=0)


def kill_after(iteration: int, command: list[str], run: Path) -> None:
    process = start_python(*command)
    while process.is_alive() and iterations_done(run) < iteration:
        time.sleep(0.003)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended before it could be killed after iteration {iteration}"


def results(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], str]:
    plain = torch.load(run / "model.pt", weights_only=True) if (run / "model.pt").exists() else {}
    return load_file(run / "adapter.safetensors"), plain, (run / "losses.jsonl").read_text(encoding="utf-8")


def assert_same_results(one: Path, other: Path) -> None:
    for got, expected in zip(results(one)[:2], results(other)[:2], strict=True):
        assert got.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(got[name], expected[name])] == []
    assert results(one)[2] == results(other)[2]


def unfinish(run: Path) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(record | {"status": "running"}), encoding="utf-8")


class Killed(BaseException):
    """Ends a run in this process at once: no handler of errors sees it."""


def interrupt(workflow: ConfigWorkflow, iteration: int) -> None:
    """Run a bundle and end it within an iteration, before the checkpoint of that iteration."""

    def kill(engine: Engine) -> None:
        if engine.state.iteration == iteration:
            raise Killed

    workflow.initialize()
    workflow.parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_COMPLETED, kill)
    with pytest.raises(Killed):
        workflow.run()


@pytest.fixture(scope="module")
def values(stages, volumes: Path, classes: Path) -> Callable[[str], dict[str, Any]]:
    """Return the values of a stage that starts from the pretrained file."""

    def make(bundle: str) -> dict[str, Any]:
        start = {"dataset_dir": str(volumes), "pretrained": str(stages.pretrained / "model.pt")}
        if bundle in ("essa_segmentation", "essa_classification"):
            start["adapter"] = str(stages.adapted / "adapter.safetensors")
        if bundle == "essa_segmentation":
            start["validate#inferer#overlap"] = 0.0  # an eighth of the windows
        if bundle == "essa_classification":
            start["datalist"] = str(classes)
        return start | STEPS

    return make


@pytest.fixture(scope="module")
def unbroken(values, run_bundle: RunBundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a run that nothing interrupted and that kept its checkpoints; one for each bundle."""

    @cache
    def run(bundle: str) -> Path:
        folder = tmp_path_factory.mktemp("unbroken") / bundle
        run_bundle(bundle, "train.yaml", output_dir=folder, keep_resume=True, **values(bundle))
        return folder

    return run


@pytest.mark.parametrize("bundle", sorted(SIZES))
def test_an_interrupted_run_ends_as_the_unbroken_one(
    bundle: str, values, unbroken, open_bundle: RunBundle, run_bundle: RunBundle, tmp_path: Path
) -> None:
    own = values(bundle) | {"output_dir": tmp_path / "run", "cache_dir": tmp_path / "cache"}
    for iteration, last in ((1, 0), (3, 2), (7, 6)):  # before the first checkpoint, in the first epoch, in the second
        interrupt(open_bundle(bundle, "train.yaml", **own), iteration)
        assert iterations_done(tmp_path / "run") == last
    run_bundle(bundle, "train.yaml", **own)
    assert_same_results(tmp_path / "run", unbroken(bundle))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("bundle", "iterations"),
    [("essa_ssa", [6]), *(pytest.param(bundle, [0, 2, 6], marks=pytest.mark.full) for bundle in sorted(SIZES))],
)
def test_a_killed_process_ends_as_the_unbroken_run(
    bundle: str, iterations: list[int], values, unbroken, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    site = {"config_file": str(BUNDLES / bundle / "configs" / "train.yaml"), "output_dir": str(run)}
    site["cache_dir"] = str(tmp_path / "cache")  # the unbroken run has no cache: crops of mapped files are the same
    (tmp_path / "site.json").write_text(json.dumps(site | values(bundle) | SIZES[bundle]), encoding="utf-8")
    command = ["-m", "monai.bundle", "run", "--args_file", str(tmp_path / "site.json")]
    for iteration in iterations:  # before the first checkpoint, within the first epoch, within the second
        kill_after(iteration, command, run)
    run_python(*command, check=True)
    assert_same_results(run, unbroken(bundle))

    record = (run / "run.json").read_text(encoding="utf-8")
    run_python(*command, env={"SLURM_RESTART_COUNT": "1"}, check=True)  # a job that was done when it was requeued
    assert run_python(*command).returncode == 1  # and a user who takes the folder for another run
    assert (run / "run.json").read_text(encoding="utf-8") == record


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can catch")
def test_a_process_that_is_asked_to_end_saves_and_says_so(values, unbroken, run_bundle, tmp_path: Path) -> None:
    run, own = tmp_path / "stopped", values("essa_ssa") | {"train#handlers#0#every": 1000}
    site = {"config_file": str(BUNDLES / "essa_ssa" / "configs" / "train.yaml"), "output_dir": str(run)}
    (tmp_path / "site.json").write_text(json.dumps(site | own | SIZES["essa_ssa"]), encoding="utf-8")
    command = ["-m", "monai.bundle", "run", "--args_file", str(tmp_path / "site.json")]
    process = start_python(*command, output=tmp_path)
    while process.is_alive() and iterations_done(run) < 4:  # the end of the first epoch
        time.sleep(0.003)
    process.terminate()
    process.join()
    output = (tmp_path / "out").read_text(encoding="utf-8") + (tmp_path / "err").read_text(encoding="utf-8")
    assert process.exitcode == 143, output
    assert "Traceback" not in output
    found = re.search(r"stopped by SIGTERM after iteration (\d+): the same command goes on from there", output)
    assert found and iterations_done(run) == int(found[1])
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "running"
    run_bundle("essa_ssa", "train.yaml", output_dir=run, **own)
    assert_same_results(run, unbroken("essa_ssa"))


@pytest.mark.parametrize("bundle", sorted(SIZES))
def test_a_run_killed_while_it_wrote_its_results_writes_them_again(
    bundle: str, values, unbroken, run_bundle: RunBundle, tmp_path: Path
) -> None:
    run = shutil.copytree(unbroken(bundle), tmp_path / "run")
    unfinish(run)
    for name in ("adapter.safetensors", "model.pt"):
        (run / name).unlink(missing_ok=name == "model.pt")

    run_bundle(bundle, "train.yaml", output_dir=run, **values(bundle))
    assert_same_results(run, unbroken(bundle))
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "finished"


def test_another_pretrained_file_is_another_run(values, unbroken, run_bundle: RunBundle, tmp_path: Path) -> None:
    """Its frozen tensors come from that file, and the checkpoint holds the others only."""
    own, run = values("essa_ssa"), shutil.copytree(unbroken("essa_ssa"), tmp_path / "run")
    unfinish(run)
    other = torch.load(own["pretrained"], weights_only=True)
    other["norm.weight"] += 1
    torch.save(other, tmp_path / "model.pt")
    with pytest.raises(RuntimeError) as caught:
        run_bundle("essa_ssa", "train.yaml", output_dir=run, **(own | {"pretrained": tmp_path / "model.pt"}))
    assert "other values of weights" in str(root_cause(caught.value))
