# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The stages of a study: each is one run of a shipped bundle, in a file that also runs alone."""

from __future__ import annotations

import logging
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from ruamel.yaml.comments import CommentedMap

from monai_essa.bundling.folder import bundle_folder
from monai_essa.bundling.yaml_text import yaml_node, yaml_text
from monai_essa.files import write_text_whole
from monai_essa.outside import check_config_value, printable, shown

__all__ = [
    "Stage",
    "Timings",
    "fitting_processes",
    "follow_folder",
    "quiet_libraries",
    "run_share",
    "run_stage",
    "stage_command",
    "stage_file",
    "write_stage",
]

# The workflows of monai.bundle warn that no logging.conf is applied.
_LEVELS = {
    "monai": logging.WARNING,
    "monai.bundle.workflows": logging.ERROR,
    "monai.data.image_writer": logging.WARNING,  # it has a level and a handler of its own
    "monai_essa": logging.WARNING,
    "ignite": logging.WARNING,
}
_STEP_OF = {"full": "full", "scratch": "scratch"}  # arms whose step is not that of the PEFT method


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


def follow_folder(folder: Path) -> Path | None:
    """Let the files of the stages name the folder of their study where that was moved.

    Args:
        folder: of the study, absolute.

    Returns:
        The folder that they named before; None if it is this one.

    Raises:
        ValueError: if a file is no file of a stage.
    """
    before = None
    for path in sorted((folder / "stages").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if f"output_dir: {folder}/runs/" in text:
            continue
        output = str(ConfigParser.load_config_file(path).get("output_dir", ""))
        found, runs, _ = output.rpartition("/runs/")
        if not runs:
            raise ValueError(f"{path}: expected output_dir in runs of the study, got {shown(output)}; restore the file")
        if found != str(folder):
            before = Path(found)
            write_text_whole(path, text.replace(f"{found}/", f"{folder}/"))
    return before


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


def fitting_processes(path: Path, most: int) -> int:
    """Return in how many processes a stage can run: as many as part its batch evenly.

    Args:
        path: the file of :func:`write_stage`.
        most: that there may be.
    """
    batch = int(ConfigParser.load_config_file(path)["batch_size"])
    return next(count for count in range(most, 0, -1) if batch % count == 0)


def run_share(path: Path, processes: int) -> None:
    """Run the share of this process in a stage of several, which together learn what one process would.

    Args:
        path: the file of :func:`write_stage`.
        processes: that run the stage.
    """
    arguments = ConfigParser.load_config_file(path)
    overlay = Path(arguments["config_file"][0]).with_name("multi_gpu_train.yaml")
    arguments["config_file"] = [*arguments["config_file"], str(overlay)]
    arguments["batch_size"] //= processes
    _run(arguments)


def run_stage(path: Path) -> tuple[ConfigParser, float]:
    """Run a stage in this process as its command does, but without logging and the progress bars of the caches.

    Args:
        path: the file of :func:`write_stage`.

    Returns:
        The parser, which holds what the run made by id, and the seconds from the first file read to the last written.
    """
    return _run(ConfigParser.load_config_file(path))


def _run(arguments: Mapping[str, Any]) -> tuple[ConfigParser, float]:
    start = time.perf_counter()
    workflow = ConfigWorkflow(workflow_type="train", logging_file=False, **arguments)
    for dataset in ("train#dataset", "validate#dataset"):
        if dataset in workflow.parser:
            workflow.parser[f"{dataset}#progress"] = False
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow.parser, time.perf_counter() - start


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Let the libraries log only warnings and errors, and hide Python's warnings, within the context.

    Afterwards the levels, the warnings and ``sys.excepthook``, which the bundles set, are restored.

    Example:
        >>> with quiet_libraries():
        ...     logging.getLogger("ignite").getEffectiveLevel() == logging.WARNING
        True
    """
    before = {name: logging.getLogger(name).level for name in _LEVELS}
    hook = sys.excepthook
    try:
        for name, level in _LEVELS.items():
            logging.getLogger(name).setLevel(level)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.excepthook = hook
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@dataclass(frozen=True)
class Timings:
    """Seconds on this computer.

    Attributes:
        start: to begin and end a stage.
        scan: to load and preprocess a scan.
        test: to score a scan.
        step: of a training step with its batch, by ``base``, ``ssa``, ``peft``, ``full`` and ``scratch``.
    """

    start: float
    scan: float
    test: float
    step: Mapping[str, float]

    def scaled(self, pretext: float, supervised: float) -> Timings:
        """Return the times of another network.

        Args:
            pretext: its arithmetic in a step of the pretext task, as a share of that of this one.
            supervised: the same for a step on labels.

        Example:
            >>> Timings(1.0, 0.1, 0.5, {"ssa": 0.2, "peft": 0.4}).scaled(2, 3).step
            {'ssa': 0.4, 'peft': 1.2000000000000002}
        """
        factors = {"base": pretext, "ssa": pretext}
        step = {name: seconds * factors.get(name, supervised) for name, seconds in self.step.items()}
        return replace(self, test=self.test * max(1.0, supervised), step=step)

    def training(self, kind: str, arm: str | None, steps: int, scans: int) -> float:
        """Return the seconds of a stage that trains.

        Args:
            kind: ``base``, ``ssa``, ``full_ssa``, ``tpp`` or ``train``.
            arm: of a training on labels.
            steps: of the stage.
            scans: that it loads.
        """
        names = {"base": "base", "full_ssa": "base", "train": _STEP_OF.get(arm or "", "peft")}
        return self.start + scans * self.scan + steps * self.step[names.get(kind, "ssa")]

    def testing(self, scans: int) -> float:
        """Return the seconds of a test."""
        return self.start + scans * self.test
