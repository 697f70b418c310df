# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A job is data to a site: what it may ask for, and a round that runs, goes on and fails in a line."""

from __future__ import annotations

import json
import multiprocessing
import os
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

from monai_essa.federated.exchange import Start, read_start
from monai_essa.federated.job import FederatedJob, write_job
from monai_essa.federated.site import SITES, FederatedStage, run_round, site_values
from tests.federated.conftest import SIZES

STAGE = FederatedStage("essa_ssa", values=SIZES | {"batch_size": 1, "samples_per_epoch": 1})


@pytest.mark.parametrize(
    "asked",
    [
        {"values": {"pretrained": "/etc/passwd"}},
        {"values": {"datalist": "other.json"}},
        {"values": {"output_dir": "/tmp/elsewhere"}},
        {"values": {"network_def#_target_": "os.system"}},
        {"values": {"train#handlers#0#folder": "/tmp"}},
        {"values": {"+initialize": ["$__import__('os').system('true')"]}},
        {"values": {"lr": "$__import__('os').system('true')"}},
        {"values": {"method": {"_target_": "os.system"}}},
        {"values": {"also_train": ["(a+)+b"]}},
        {"values": {"nothing": 1}},
        {"overlays": ["../../../secret.yaml"]},
        {"overlays": ["/etc/passwd"]},
        {"overlays": ["tracking_mlflow.yaml"]},
        {"overlays": ["multi_gpu_train.yaml"]},
        {"overlays": ["method_none.yaml"]},
        {"bundle": "../bundle"},
        {"head": "mine"},
        {"clip": -1.0},
        {"clip": float("nan")},
        {"noise": 1.0},
    ],
    ids=str,
)
def test_a_job_may_not_ask_for_more_than_plain_values(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as refused:
        FederatedStage(**({"bundle": "essa_ssa"} | asked))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content", ["[1]", "lr: 1.0", "pretrained: $1", "output_dir: /tmp", "device: {_target_: torch.device}"]
)
def test_the_file_of_a_site_holds_what_a_site_decides(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SITES, str(tmp_path))
    (tmp_path / "north.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"north.yaml"):
        site_values("north")


def test_paths_of_a_site_begin_at_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "north.yaml").write_text("pretrained: vit.pt\ndatalist: /scans/datalist.json\nsection: own", "utf-8")
    monkeypatch.setenv(SITES, str(tmp_path))
    read = {"pretrained": str(tmp_path / "vit.pt"), "datalist": "/scans/datalist.json", "section": "own"}
    assert site_values("north") == read
    (tmp_path / "north.yaml").write_text("pretrained: family:ssl_head", "utf-8")
    assert site_values("north") == {"pretrained": "family:ssl_head"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SITES, ".")
    with pytest.raises(ValueError, match="expected a path from /"):
        site_values("north")


def test_the_name_of_a_site_is_no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(SITES, str(tmp_path))
    with pytest.raises(ValueError, match="the name of the site"):
        site_values("../north")


@pytest.fixture
def north(hippocampus_tiny: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    values = {"pretrained": str(base), "dataset_dir": str(hippocampus_tiny), "section": "training"}
    (tmp_path / "north.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    monkeypatch.setenv(SITES, str(tmp_path))
    return values


def _client(start: Path, folder: Path) -> None:
    os.environ[SITES] = str(folder)
    begin = read_start(start)
    run_round(STAGE, begin, begin.values(), "north", folder / "rounds", 2)


@pytest.mark.slow
def test_a_round_learns_and_a_second_call_sends_the_same_again(
    north: dict[str, Any], job: Path, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "rounds").mkdir()
    reference = start.values()
    sent, weight = run_round(STAGE, start, reference, "north", tmp_path / "rounds", 0)
    assert weight > 0 and any(not np.array_equal(sent[name], reference[name]) for name in reference)
    again, weight_2 = run_round(STAGE, start, reference, "north", tmp_path / "rounds", 0)
    assert weight_2 == weight and all(np.array_equal(again[name], sent[name]) for name in sent)
    listed = json.loads((tmp_path / "rounds" / "round_0_sent.json").read_text(encoding="utf-8"))
    text = json.dumps(listed)
    assert str(tmp_path) not in text and "nii" not in text

    # A client that is killed leaves no training behind, and the next call goes on.
    client = multiprocessing.get_context("forkserver").Process(target=_client, args=(job / "app" / "start", tmp_path))
    client.start()
    log = tmp_path / "rounds" / "round_2.log"
    _until(lambda: log.is_file() and log.stat().st_size > 0)
    client.kill()
    client.join()
    _until(lambda: not any("round_2.yaml" in line for line in _command_lines()))
    assert not (tmp_path / "rounds" / "round_2" / "loss_weight.json").is_file()

    # A site with another base ends before its first step.
    torch.manual_seed(1)
    torch.save(ViT(1, (32, 32, 32), 16, 48, 96, 12, 4, qkv_bias=True).state_dict(), tmp_path / "other.pt")
    (tmp_path / "north.yaml").write_text(yaml.safe_dump(north | {"pretrained": str(tmp_path / "other.pt")}), "utf-8")
    with pytest.raises(RuntimeError, match="the round failed: .*base") as failed:
        run_round(STAGE, start, reference, "north", tmp_path / "rounds", 1)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    "asked",
    [
        {"sites": ["a", "a"]},
        {"sites": ["../a"]},
        {"sites": ["server"]},
        {"rounds": 0},
        {"steps": 0},
        {"least_sites": 9},
        {"wait": -1.0},
    ],
    ids=str,
)
def test_a_job_that_cannot_run_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        FederatedJob(**({"sites": ["a", "b"], "stage": STAGE} | asked))


def test_a_job_holds_no_code_and_says_what_leaves_a_site(job: Path, base: Path) -> None:
    files = {path.relative_to(job).as_posix() for path in job.rglob("*") if path.is_file()}
    configs = {f"app/config/config_fed_{name}.json" for name in ("client", "server")}
    starts = {"app/start/adapter.safetensors", "app/start/pretext_head.safetensors"}
    assert files == configs | starts | {"meta.json", "README.md", "resources.json"}
    page = (job / "README.md").read_text(encoding="utf-8")
    assert "`adapter/encoder:blocks.0.attn.out_proj.weight` | [48, 48] | 9,216 |" in page
    assert str(base.parent) not in page + "".join((job / name).read_text() for name in configs)
    with pytest.raises(FileExistsError):
        write_job(FederatedJob(["a", "b"], STAGE), base, job)


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def _command_lines() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            yield (process / "cmdline").read_text(encoding="utf-8", errors="replace")
