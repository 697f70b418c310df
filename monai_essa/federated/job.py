# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Write a job of NVIDIA FLARE: its configs, where it begins, and a page that says what leaves a site."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from monai_essa.adapters.file import save_adapter
from monai_essa.engines.objectives import PretextHead
from monai_essa.federated.exchange import ADAPTER, HEAD, Start, read_start, write_start
from monai_essa.federated.site import SITES, FederatedStage, stage_configs
from monai_essa.files import folder_written_whole, json_sha256, write_text_whole
from monai_essa.outside import Number, Text

__all__ = ["PRETEXT", "FederatedJob", "write_job"]

PRETEXT = ("essa_ssa", "essa_tpp")
"""Bundles whose objective has a head of its own."""
_SITE = Text(r"[A-Za-z0-9][A-Za-z0-9_-]*", longest=64)
_WAIT = Number(0, 100_000)  # minutes
_OURS = "monai_essa.federated.components"
_GENERATOR = "nvflare.app_common.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator"
_ROUNDS = "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather"
_HEADS = {
    "exchanged": "The pretext head (decoder and mask token) learns at each site and is averaged too.",
    "frozen": "The pretext head is frozen as the job brings it, and does not travel.",
    "none": "There is no pretext head; decoder and head of the task are in the adapter.",
}


@dataclass(frozen=True)
class FederatedJob:
    """What a job is.

    Attributes:
        sites: their names in the federation.
        stage: what each of them runs.
        rounds: after each of which the adapters are averaged.
        steps: of a site in a round, of a batch each.
        least_sites: whose results a round needs; with a single site give 1.
        wait: minutes that a round waits for the other sites when it has these; one that is lost costs as many.

    Raises:
        ValueError: if a name or a number is out of its range, or a site is named twice.
    """

    sites: Sequence[str]
    stage: FederatedStage
    rounds: int = 5
    steps: int = 50
    least_sites: int = 2
    wait: float = 10.0

    def __post_init__(self) -> None:
        names = [_SITE.check(name, "a site") for name in self.sites]
        if len(set(names)) != len(names) or "server" in names:
            raise ValueError(f"expected different names of sites, and none of them 'server', got {', '.join(names)}")
        if not 1 <= self.least_sites <= len(names):
            raise ValueError(f"a round needs 1 to {len(names)} sites, got {self.least_sites}")
        _WAIT.check(self.wait, "wait")
        if min(self.rounds, self.steps) < 1:
            raise ValueError(f"expected a round and a step or more, got {self.rounds} and {self.steps}")


def write_job(job: FederatedJob, pretrained: Path, folder: Path, start: Path | None = None) -> Start:
    """Write a job folder, which ``nvflare simulator`` and ``nvflare job submit`` take.

    Args:
        job: what it is.
        pretrained: the base, which each site needs too: only its fingerprint is in the job.
        folder: of the job, new.
        start: a folder with an adapter, and perhaps a pretext head, to begin with, such as the ``global`` folder of an
            earlier job; default: the base itself.

    Returns:
        Where the job begins.

    Raises:
        FileExistsError: if the folder is there.
        ValueError: if the stage cannot be built on the base.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; give a new folder")
    begin = _started(job.stage, pretrained) if start is None else read_start(start)
    with folder_written_whole(folder) as place:
        app = place / "app"
        (app / "config").mkdir(parents=True)
        write_start(begin, app / "start")
        _write(place / "meta.json", _meta(folder.name, job))
        _write(app / "config" / "config_fed_server.json", _server(job))
        _write(app / "config" / "config_fed_client.json", _client(job))
        _write(place / "resources.json", {"class_allow_list": [_OURS, _GENERATOR, _ROUNDS]})
        write_text_whole(place / "README.md", _page(folder.name, job, begin))
    return begin


def _started(stage: FederatedStage, pretrained: Path) -> Start:
    """Build the stage on the base, and keep what learns as it is before the first step."""
    parser = ConfigParser()
    parser.read_config(stage_configs(stage.bundle, stage.overlays))
    own: dict[str, Any] = {"pretrained": str(pretrained), "device": "cpu", "lean": "none"}
    parser.update({**stage.values, **own, **({} if stage.bundle in PRETEXT else {"start": "encoder"})})
    set_determinism(seed=0)
    network = parser.get_parsed_content("network")
    with tempfile.TemporaryDirectory() as place:
        save_adapter(network, Path(place) / ADAPTER)
        if stage.head != "none":
            PretextHead(parser.get_parsed_content("objective"), Path(place) / HEAD)(Engine(lambda engine, batch: None))
        set_determinism(seed=None)
        return read_start(Path(place))


def _meta(name: str, job: FederatedJob) -> dict[str, Any]:
    places = {"app": ["server", *job.sites]}
    return {"name": name, "min_clients": job.least_sites, "resource_spec": {}, "deploy_map": places}


def _server(job: FederatedJob) -> dict[str, Any]:
    rounds: dict[str, Any] = {"min_clients": job.least_sites, "num_rounds": job.rounds, "ignore_result_error": True}
    rounds |= {"wait_time_after_min_received": round(60 * job.wait)}
    rounds |= {"aggregator_id": "aggregator", "persistor_id": "persistor", "shareable_generator_id": "generator"}
    return {
        "format_version": 2,
        "components": [
            {"id": "persistor", "path": f"{_OURS}.AdapterPersistor", "args": {}},
            {"id": "aggregator", "path": f"{_OURS}.AdapterAggregator", "args": {}},
            {"id": "generator", "path": _GENERATOR, "args": {}},
        ],
        "workflows": [{"id": "rounds", "path": _ROUNDS, "args": {**rounds, "train_task_name": "train"}}],
    }


def _client(job: FederatedJob) -> dict[str, Any]:
    values = {**job.stage.values, "samples_per_epoch": job.steps * _batch(job.stage)}
    executor = {"path": f"{_OURS}.AdapterExecutor", "args": {**asdict(job.stage), "values": values}}
    return {"format_version": 2, "executors": [{"tasks": ["train"], "executor": executor}], "components": []}


def _batch(stage: FederatedStage) -> int:
    parser = ConfigParser()
    parser.read_config(stage_configs(stage.bundle, stage.overlays))
    return int({"batch_size": parser.get("batch_size"), **stage.values}["batch_size"])


def _page(name: str, job: FederatedJob, begin: Start) -> str:
    values = begin.values()
    rows = "\n".join(f"| `{name}` | {list(value.shape)} | {value.nbytes:,} |" for name, value in values.items())
    methods = ", ".join(entry["name"] for entry in begin.adapter.record["methods"])
    limits = "no update is shortened, and no noise is added"
    if job.stage.clip is not None:
        limits = f"each update is shortened to a length of {job.stage.clip:g}, with noise of {job.stage.noise:g} of it"
    digest, size = json_sha256(begin.adapter.record["fingerprint"]), sum(value.nbytes for value in values.values())
    return f"""# {methods} over {len(job.sites)} sites

{job.rounds} rounds of {job.steps} steps of `{job.stage.bundle}` at {", ".join(job.sites)}. After each round the server
averages the adapters by what the losses of a site were divided by. {_HEADS[job.stage.head]}
Limits: {limits}.

Each site needs monai_essa with the extra `federated`, the base whose fingerprint is `{digest}`,
and SITE.yaml with its `pretrained` and `datalist` in the folder that the variable `{SITES}` names.
The job holds no code. A site that lets it run puts the classes of `resources.json` into the `class_allow_list` of its
own `local/resources.json`. To try all sites on one machine, with their files in the folder `sites`:

    mkdir -p workspace/local
    cp {name}/resources.json workspace/local/
    {SITES}="$PWD/sites" nvflare simulator {name} -w workspace -c {",".join(job.sites)} -t {len(job.sites)}

## What leaves a site

In each round these {size:,} bytes, and one number: the weight of the site. No image, no name and no path.

| tensor | shape | bytes |
| --- | --- | --- |
{rows}
"""


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text_whole(path, json.dumps(content, indent=2) + "\n")
