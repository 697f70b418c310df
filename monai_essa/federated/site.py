# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The round of a site: its own data and base, the stage that the job asks for, and what it sends back.

The job comes from a server, and is data here: it names a bundle and overlays that ship with monai_essa, and plain
values of keys that it may set. Where the data and the base are, only the site's own file says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from monai.bundle import ConfigParser

from monai_essa.bundling.folder import OVERLAYS, bundle_folder
from monai_essa.federated.exchange import (
    ADAPTER,
    HEAD,
    Start,
    check_update,
    limited_update,
    read_result,
    sent_list,
    write_start,
)
from monai_essa.files import write_text_whole
from monai_essa.outside import NAME, Number, Text, check_config_value, check_pattern, shown

__all__ = ["SITES", "FederatedStage", "run_round", "site_values", "stage_configs"]

SITES = "MONAI_ESSA_SITES"
"""The variable that names the folder of SITE.yaml."""
_ROUND = "federated_round.yaml"
# What a site decides itself. The server may set everything else that is a plain value.
_OF_SITE = {
    "pretrained",
    "pretrained_prefix",
    "pretrained_img_size",
    "dataset_dir",
    "datalist",
    "section",
    "validation_section",
    "limit",
    "device",
    "precision",
    "num_workers",
    "cache_rate",
    "cache_dir",
    "hold_out",
}
_NO_FILE = ("family:", "bundle:")  # of public weights, and of a bundle of the model zoo
_PATHS = {"pretrained", "dataset_dir", "datalist", "cache_dir"}
_OF_ROUND = {"bundle_root", "output_dir", "round_adapter", "pretext_head", "freeze_pretext_head", "adapter", "start"}
_OF_ROUND |= {"seed", "max_epochs", "val_interval", "keep_resume", "dry_run", "imports", "initialize", "run"}
_KEY = Text(r"[a-z][a-z0-9_]*", longest=64)  # no '#', which reaches into components and their _target_
_OVERLAY = Text(rf"(?:(?:{'|'.join(OVERLAYS)})_[a-z0-9_]+|last_epoch)\.yaml", longest=64)  # none reports elsewhere
_ROUND_PROGRAM = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
runpy.run_module("monai.bundle", run_name="__main__")
"""
_POLL = 0.5  # seconds between two looks at a running round
_LAST_LINES = 4000  # characters of its output that hold the error


@dataclass(frozen=True)
class FederatedStage:
    """What a job asks each site to run.

    Attributes:
        bundle: that ships with monai_essa.
        overlays: names of files in its ``configs``, over ``train.yaml``.
        values: plain values of its keys, the same for all sites.
        head: of the pretext task: ``"exchanged"``, ``"frozen"`` as the job brings it, or ``"none"``.
        clip: length to which an update is shortened; None: it is not.
        noise: deviation of the noise on an update, in units of ``clip``.

    Raises:
        ValueError: if a value is out of its range.
    """

    bundle: str
    overlays: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    head: str = "exchanged"
    clip: float | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        stage_configs(self.bundle, self.overlays)
        known = set(ConfigParser.load_config_files(stage_configs(self.bundle, self.overlays)))
        for key, value in self.values.items():
            if _KEY.check(key, "a key of the job") in _OF_SITE | _OF_ROUND:
                raise ValueError(f"{key}: each site sets this itself, or the round does; leave it out of the job")
            if key not in known:
                raise ValueError(f"{key}: expected a key of {self.bundle}, such as lr or batch_size")
            check_config_value(value, key)
        for pattern in self.values.get("also_train", ()):
            check_pattern(pattern, "also_train")
        if self.head not in ("exchanged", "frozen", "none"):
            raise ValueError(f"head: expected exchanged, frozen or none, got {shown(self.head)}")
        if self.clip is not None and not 0 < Number(0, 1e12).check(self.clip, "clip"):
            raise ValueError(f"clip: expected a length above 0, got {self.clip}")
        if Number(0, 1e6).check(self.noise, "noise") and self.clip is None:
            raise ValueError("noise is in units of clip: give a clip too")


def stage_configs(bundle: str, overlays: Sequence[str]) -> list[str]:
    """Return the config files of a stage.

    Raises:
        ValueError: if no such bundle or overlay ships with monai_essa.

    Example:
        >>> [Path(file).name for file in stage_configs("essa_ssa", ["network_swin_unetr.yaml"])]
        ['train.yaml', 'network_swin_unetr.yaml']
    """
    folder = bundle_folder(bundle) / "configs"
    for name in overlays:
        if not (folder / _OVERLAY.check(name, "an overlay")).is_file():
            raise ValueError(f"{bundle} has no overlay {shown(name)}")
    return [str(folder / name) for name in ("train.yaml", *overlays)]


def site_values(site: str) -> dict[str, Any]:
    """Read where a site has its data and its base, from SITE.yaml in the folder that ``MONAI_ESSA_SITES`` names.

    Paths in the file begin at its folder.

    Args:
        site: its name in the federation.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the folder is no whole path, or the file sets something else than what a site decides.
    """
    Text(NAME, longest=64).check(site, "the name of the site")
    if SITES not in os.environ:
        raise FileNotFoundError(f"set {SITES} to the folder that holds {site}.yaml, with pretrained and datalist")
    path = Path(os.environ[SITES]) / f"{site}.yaml"
    if not path.is_absolute():
        raise ValueError(f"{SITES}: FLARE runs in folders of its own; expected a path from /, got {path.parent}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it says where this site has pretrained and datalist")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: expected keys and values, such as pretrained: vit.pt")
    for key, value in values.items():
        if key not in _OF_SITE:
            raise ValueError(f"{path}: {shown(key)} is not what a site decides; expected {', '.join(sorted(_OF_SITE))}")
        check_config_value(value, f"{path}: {key}")
    paths = {key: value for key, value in values.items() if key in _PATHS and isinstance(value, str)}
    own = {key: str(path.parent / value) for key, value in paths.items() if not value.startswith(_NO_FILE)}
    return {**values, **own}


def run_round(
    stage: FederatedStage,
    start: Start,
    received: Any,
    site: str,
    folder: Path,
    number: int,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, np.ndarray], float]:
    """Run one round of a site in a process of its own; one that was killed goes on, one that is done is read again.

    Args:
        stage: of the job.
        start: of the job, which the site has from it.
        received: the values that all sites go on from, still unchecked.
        site: its name.
        folder: of the rounds of this site.
        number: of the round, from 0.
        stopped: asked twice a second whether to stop.

    Returns:
        The values to send, and the weight of the site: what its losses were divided by.

    Raises:
        RuntimeError: if the run fails, or is stopped.
        ValueError: if what came is not what the job describes.
    """
    reference = start.values()
    check_update(received, reference)
    run, begin = folder / f"round_{number}", folder / f"round_{number}_start"
    if not (run / "loss_weight.json").is_file():
        write_start(start.with_values(received), begin)
        arguments = _arguments(stage, site_values(site), begin, run, number)
        write_text_whole(folder / f"round_{number}.yaml", yaml.safe_dump(arguments, sort_keys=False))
        _run(folder / f"round_{number}.yaml", folder / f"round_{number}.log", stopped)
    values = read_result(run, start)
    check_update(values, reference)
    weight = float(json.loads((run / "loss_weight.json").read_text(encoding="utf-8"))["weight"])
    sent = limited_update(values, received, stage.clip, stage.noise, np.random.default_rng())
    write_text_whole(folder / f"round_{number}_sent.json", json.dumps(sent_list(sent, weight), indent=1) + "\n")
    return sent, weight


def _arguments(stage: FederatedStage, own: Mapping[str, Any], begin: Path, run: Path, number: int) -> dict[str, Any]:
    configs = [*stage_configs(stage.bundle, stage.overlays), str(bundle_folder(stage.bundle) / "configs" / _ROUND)]
    values: dict[str, Any] = {"config_file": configs, **stage.values, **own}
    values |= {"output_dir": str(run), "round_adapter": str(begin / ADAPTER), "seed": 1 + number}
    values |= {"max_epochs": 1, "val_interval": 1}
    if (begin / HEAD).is_file():
        values |= {"pretext_head": str(begin / HEAD), "freeze_pretext_head": stage.head == "frozen"}
    return values | ({"start": "encoder"} if stage.head == "none" else {})


def _run(arguments: Path, log: Path, stopped: Callable[[], bool]) -> None:
    command = [sys.executable, "-c", _ROUND_PROGRAM, "run", "--args_file", str(arguments)]
    with log.open("ab") as output:
        # Its input is a pipe from here, which closes with this process: a killed client leaves no training behind.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                if stopped():
                    raise RuntimeError("the round was stopped by the server")
                time.sleep(_POLL)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        said = log.read_text(encoding="utf-8", errors="replace")[-_LAST_LINES:]
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        last = errors[-1].removeprefix("error: ") if errors else f"it ended with code {process.returncode}"
        raise RuntimeError(f"the round failed: {last}")
