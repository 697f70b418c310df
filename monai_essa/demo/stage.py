# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A stage of the demo: a shipped bundle and the keys that a site would set, written to a file and run from it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from ruamel.yaml.comments import CommentedMap

from monai_essa.bundle_folder import bundle_folder
from monai_essa.outside import check_config_value, printable
from monai_essa.yaml_text import yaml_node, yaml_text

__all__ = ["Stage", "run_stage", "stage_command", "stage_file", "write_stage"]


@dataclass(frozen=True)
class Stage:
    """One run of a bundle.

    Args:
        name: of its file.
        title: what it does, for who watches.
        bundle: one that ships with monai_essa.
        configs: files of the bundle's ``configs`` folder, merged in order.
        values: over those of the configs, by id.
    """

    name: str
    title: str
    bundle: str
    configs: Sequence[str]
    values: Mapping[str, Any]


def stage_file(stage: Stage, output: Path) -> Path:
    """Name the file of a stage within the folder of the demo."""
    return output / "stages" / f"{stage.name}.yaml"


def write_stage(stage: Stage, output: Path) -> Path:
    """Write a stage as a file of arguments, as a site's ``my_site.yaml`` is one.

    Args:
        stage: the stage.
        output: folder of the demo.

    Returns:
        The file, for ``python -m monai.bundle run --args_file`` and :func:`run_stage`.

    Raises:
        ValueError: if a value is more than data to MONAI: names of images and labels are among them.
    """
    configs = bundle_folder(stage.bundle) / "configs"
    arguments = CommentedMap({"config_file": yaml_node([str(configs / name) for name in stage.configs])})
    arguments |= {key: yaml_node(check_config_value(value, key)) for key, value in stage.values.items()}
    arguments.yaml_set_start_comment(printable(stage.title))
    path = stage_file(stage, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml_text(arguments), encoding="utf-8")
    return path


def stage_command(path: Path, output_dir: Path | None = None) -> str:
    """Give the command that runs a stage from the folder that the demo was started in.

    Args:
        path: the file of :func:`write_stage`.
        output_dir: another run folder than that of the file, since a finished run is never written over.

    Returns:
        The command line.
    """
    parts = ["python", "-m", "monai.bundle", "run", "--args_file", path.as_posix()]
    return shlex.join(parts + (["--output_dir", output_dir.as_posix()] if output_dir is not None else []))


def run_stage(path: Path) -> tuple[ConfigParser, float]:
    """Run a stage in this process, as its command does but for the logging and the bars of the caches.

    Args:
        path: the file of :func:`write_stage`.

    Returns:
        The parser, which gives by id what the run made; and the seconds from the first file read to the last written.
    """
    arguments = ConfigParser.load_config_file(path)
    start = time.perf_counter()
    workflow = ConfigWorkflow(workflow_type="train", logging_file=False, **arguments)
    for dataset in ("train#dataset", "validate#dataset"):
        if dataset in workflow.parser:
            workflow.parser[f"{dataset}#progress"] = False
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow.parser, time.perf_counter() - start
