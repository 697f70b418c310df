# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The SLURM scripts of docs/how-to/cluster.md, run by a SLURM of one machine: to the end, requeued, and as an array.

Needs root and Debian's slurmctld, slurmd and munge. The machine says that it has the CPUs, the memory and the GPUs that
the scripts ask for; the runs are tiny, on CPUs, and two processes stand for four.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from monai.networks.nets import ViT

from tests.bundles.conftest import BUNDLES, LABELS, TINY
from tests.distributed.torchrun import free_port

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r'^```bash title="(\S+\.sbatch)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE))
PROGRAMS = ("slurmctld", "slurmd", "munged")
LONGEST = 900  # seconds that a job may take
CONFIG = """
ClusterName=here
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=262144 Gres=gpu:4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [
    pytest.mark.full,  # minutes
    pytest.mark.skipif(
        not all(map(shutil.which, PROGRAMS)) or os.geteuid() != 0,
        reason="needs root and Debian's packages slurmctld, slurmd and munge",
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A SLURM of its own on this machine; gives the environment in which its commands find it."""
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    for number in range(4):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-3]\n", encoding="utf-8")
    text = CONFIG.format(folder=folder, host=host, ports=(free_port(), free_port()))
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    found = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": found}
    names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = ["munged", "--force", "--foreground", *(f"--{key}={folder}/munge/{name}" for key, name in names.items())]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            started.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
            time.sleep(2)
        _wait(lambda: "idle" in _said(environment, "sinfo", "--noheader", "--format=%t"), 60, folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--full", "--signal=KILL", "--user=root"], env=environment, check=False)
        time.sleep(1)
        for process in reversed(started):
            process.terminate()
            process.wait(30)


@pytest.fixture
def site(volumes: Path, tmp_path: Path) -> Path:
    """A folder with copies of the bundles, a base and a datalist with folds, under the names of the page."""
    for name in ("essa_ssa", "essa_segmentation"):
        shutil.copytree(BUNDLES / name, tmp_path / name)
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
    torch.save(ViT(1, (32, 32, 32), 16, qkv_bias=True, **sizes).state_dict(), tmp_path / "vit_b.pt")
    (tmp_path / "runs" / "ssa").mkdir(parents=True)
    shutil.copy(tmp_path / "vit_b.pt", tmp_path / "runs" / "ssa" / "model.pt")
    image, label = (f"{volumes}/{kind}_{{:02d}}.nii.gz" for kind in ("image", "label"))
    sections = {
        "training": [{"image": image.format(n), "label": label.format(n), "fold": n % 5} for n in range(6)],
        "unlabeled": [{"image": image.format(n)} for n in range(6, 12)],
    }
    (tmp_path / "datalist.json").write_text(json.dumps(sections), encoding="utf-8")
    return tmp_path


def submit(environment: dict[str, str], site: Path, name: str, *options: str, **small: object) -> str:
    """Submit a script of the page with small values in the place of its workers; return the number of the job."""
    (site / "small.yaml").write_text(
        yaml.safe_dump(TINY | {"lean": "none", "cache_rate": 0.0} | small), encoding="utf-8"
    )
    script = SCRIPTS[name].replace("--num_workers 7", "--num_workers 0 --args_file small.yaml")
    script = script.replace("--nproc_per_node=4", "--nproc_per_node=2").replace(
        "OMP_NUM_THREADS=8", "OMP_NUM_THREADS=1"
    )
    (site / name).write_text(script, encoding="utf-8")
    done = subprocess.run(
        ["sbatch", "--parsable", *options, name], cwd=site, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def ended(environment: dict[str, str], job: str) -> bool:
    return not _said(environment, "squeue", "--noheader", f"--jobs={job}")


def _said(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


def _wait(done: Callable[[], bool], seconds: float, folder: Path) -> None:
    end = time.monotonic() + seconds
    while not done():
        logs = [path.read_text(encoding="utf-8", errors="replace")[-1500:] for path in sorted(folder.glob("*.log"))]
        assert time.monotonic() < end, "\n".join(logs)
        time.sleep(0.5)


def test_a_job_that_is_signalled_before_its_time_is_over_goes_on_where_it_stopped(
    slurm: dict[str, str], site: Path
) -> None:
    shutil.rmtree(site / "runs" / "ssa")
    job = submit(slurm, site, "one_node.sbatch", max_epochs=40, samples_per_epoch=4, batch_size=1, val_interval=40)
    losses = site / "runs" / "ssa" / "losses.jsonl"
    _wait(lambda: losses.is_file() and losses.read_text(encoding="utf-8").count("\n") > 2, LONGEST, site)
    subprocess.run(["scancel", "--signal=TERM", "--batch", job], env=slurm, check=True)  # as SLURM two minutes before
    _wait(lambda: _said(slurm, "squeue", "--noheader", "--format=%T", f"--jobs={job}") == "PENDING", 300, site)
    reached = losses.read_text(encoding="utf-8").count("\n")
    assert reached < 40 and (site / "runs" / "ssa" / "resume").is_dir()
    time.sleep(5)  # the machine is still busy with the end of the first start
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=slurm, check=True)  # not minutes later
    _wait(lambda: ended(slurm, job), LONGEST, site)
    record = json.loads((site / "runs" / "ssa" / "run.json").read_text(encoding="utf-8"))
    epochs = [json.loads(line)["epoch"] for line in losses.read_text(encoding="utf-8").splitlines()]
    assert record["status"] == "finished" and epochs == list(range(1, 41))


def test_machines_meet_at_the_first_one(slurm: dict[str, str], site: Path) -> None:
    shutil.rmtree(site / "runs" / "ssa")
    job = submit(slurm, site, "several_nodes.sbatch", "--nodes=1", max_epochs=1, samples_per_epoch=4, batch_size=1)
    _wait(lambda: ended(slurm, job), LONGEST, site)
    log = next(site.glob("ssa_*.log")).read_text(encoding="utf-8")
    record = site / "runs" / "ssa" / "run.json"
    assert record.is_file() and json.loads(record.read_text(encoding="utf-8"))["status"] == "finished", log[-3000:]


def test_an_array_trains_an_arm_of_a_fold_in_each_job(slurm: dict[str, str], site: Path) -> None:
    small = {"max_epochs": 1, "samples_per_epoch": 2, "feature_size": 8, "labels": LABELS}
    job = submit(slurm, site, "folds_and_arms.sbatch", "--array=1,13", **small)
    _wait(lambda: ended(slurm, job), LONGEST, site)
    for run in ("apla_fold1", "full_fold3"):
        record = json.loads((site / "runs" / run / "run.json").read_text(encoding="utf-8"))
        assert record["status"] == "finished"
