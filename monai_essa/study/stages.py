# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A stage of a study: one run of a shipped bundle with its overlays and values, in a file that also runs alone."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from ruamel.yaml.comments import CommentedMap

from monai_essa.bundling.folder import bundle_folder
from monai_essa.bundling.yaml_text import yaml_node, yaml_text
from monai_essa.files import write_text_whole
from monai_essa.outside import check_config_value, printable

__all__ = ["Stage", "run_stage", "stage_command", "stage_file", "write_stage"]


@dataclass(frozen=True)
class Stage:
    """Describe one run of a bundle.

    Args:
        name: name of its file.
        title: what it does, for the progress bar and the report.
        bundle: name of a bundle that ships with monai_essa.
        configs: files of the bundle's ``configs`` folder, merged in order.
        values: values that replace those of the configs, by id.
    """

    name: str
    title: str
    bundle: str
    configs: Sequence[str]
    values: Mapping[str, Any]


def stage_file(stage: Stage, output: Path) -> Path:
    """Return the path of the file of a stage within the folder of the study."""
    return output / "stages" / f"{stage.name}.yaml"


def write_stage(stage: Stage, output: Path) -> Path:
    """Write a stage as a file of arguments, like a site's ``my_site.yaml``.

    Args:
        stage: the stage.
        output: folder of the study.

    Returns:
        The file, for ``python -m monai.bundle run --args_file`` and :func:`run_stage`.

    Raises:
        ValueError: if MONAI would evaluate a value, such as the name of an image or of a label.
    """
    configs = bundle_folder(stage.bundle) / "configs"
    arguments = CommentedMap({"config_file": yaml_node([str(configs / name) for name in stage.configs])})
    arguments |= {key: yaml_node(check_config_value(value, key)) for key, value in stage.values.items()}
    arguments.yaml_set_start_comment(printable(stage.title))
    path = stage_file(stage, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, yaml_text(arguments))
    return path


def stage_command(path: Path, output_dir: Path | None = None) -> str:
    """Return the command that runs a stage from the folder in which the study was started.

    Args:
        path: the file of :func:`write_stage`.
        output_dir: a run folder to use instead of the file's, since a finished run is never overwritten; default: none.

    Returns:
        The command line.
    """
    parts = ["python", "-m", "monai.bundle", "run", "--args_file", path.as_posix()]
    return shlex.join(parts + (["--output_dir", output_dir.as_posix()] if output_dir is not None else []))


def run_stage(path: Path) -> tuple[ConfigParser, float]:
    """Run a stage in this process as its command does, but without logging and the progress bars of the caches.

    Args:
        path: the file of :func:`write_stage`.

    Returns:
        The parser, which holds what the run made by id, and the seconds from the first file read to the last written.
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
