# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The stages of the demo: which bundle runs with which values."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from ruamel.yaml.comments import CommentedMap

from monai_essa.bundling.folder import bundle_folder
from monai_essa.bundling.yaml_text import yaml_node, yaml_text
from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.data import DemoData
from monai_essa.outside import check_config_value, printable

__all__ = ["DemoPlan", "DemoSize", "Epochs", "Stage", "run_stage", "stage_command", "stage_file", "write_stage"]

_HEADS = 6
_PRETEXT: dict[str, Any] = {"batch_size": 4, "samples_per_epoch": 96}
# The bundles' rates are for long runs. These were chosen by the validation Dice after SSA, then taken for every start.
_SEGMENTATION: dict[str, Any] = {"batch_size": 1, "samples_per_epoch": 10, "lr": 2.0e-3, "head_lr_factor": 5.0}


@dataclass(frozen=True)
class Epochs:
    """How long each kind of stage trains: an epoch is 24 steps without labels, 10 with them."""

    pretraining: int = 10
    adaptation: int = 8
    segmentation: int = 6


@dataclass(frozen=True)
class DemoSize:
    """How large the demo is; the defaults take less than five minutes on two cores.

    Args:
        cohort: volumes per section.
        img_size: crop in voxels, multiples of 16.
        hidden_size: width of the encoder, a multiple of 6.
        feature_size: width of the decoder at full resolution.
        epochs: of the stages.
    """

    cohort: CohortSize = field(default_factory=CohortSize)
    img_size: tuple[int, int, int] = (48, 64, 48)
    hidden_size: int = 192
    feature_size: int = 8
    epochs: Epochs = field(default_factory=Epochs)


@dataclass(frozen=True)
class DemoPlan:
    """The stages of a demo; the run folder of a stage is ``output / stage.name``.

    Args:
        data: what the stages run on.
        size: how large they are.
        output: folder of the demo.
        seed: of every run.
    """

    data: DemoData
    size: DemoSize
    output: Path
    seed: int

    def pretraining(self) -> Stage:
        """Pre-train an encoder from nothing on the source: masked autoencoding, every parameter."""
        values = {"section": self.data.sections["source"], "max_epochs": self.size.epochs.pretraining, "lr": 1.0e-3}
        return self._pretext("pretrain", "pre-training on the source (MAE, all parameters)", "full", values)

    def adaptation(self) -> Stage:
        """Adapt that encoder to the unlabelled target: SSA with APLA, which goes on with the same MAE decoder."""
        values = {
            "section": self.data.sections["unlabeled"],
            "max_epochs": self.size.epochs.adaptation,
            "pretext_head": str(self.output / "pretrain" / "pretext_head.safetensors"),
        }
        return self._pretext("ssa", "SSA on the target (MAE, APLA)", "apla", values | self._base())

    def segmentations(self) -> list[Stage]:
        """Segment the target from three starts, with the same labels, decoder and number of steps."""
        adapter = {"adapter": str(self.output / "ssa" / "adapter.safetensors")}
        return [
            self._segmentation("with_ssa", "segmentation after SSA", (), {"start": "adapter"} | self._base() | adapter),
            self._segmentation(
                "without_ssa", "segmentation without SSA", ("method_apla.yaml",), {"start": "encoder"} | self._base()
            ),
            self._segmentation("from_nothing", "segmentation from a random start", ("start_random.yaml",), {}),
        ]

    def training(self) -> list[Stage]:
        """List every stage that trains, in the order in which they must run."""
        return [self.pretraining(), self.adaptation(), *self.segmentations()]

    def evaluation(self, segmentation: Stage) -> Stage:
        """Measure a finished segmentation on the test volumes."""
        return Stage(
            f"{segmentation.name}_test",
            f"test of the {segmentation.title}",
            segmentation.bundle,
            (*segmentation.configs, "evaluate.yaml"),
            {**segmentation.values, "validation_section": self.data.sections["test"]},
        )

    def prediction(self, segmentation: Stage, image: Any, name: str) -> Stage:
        """Segment an image with a finished segmentation by the published inference config.

        Args:
            segmentation: the finished one.
            image: file, or one file for each channel.
            name: of the stage.
        """
        values = {
            "checkpoint": str(self.output / segmentation.name / "model.pt"),
            "data": [{"image": image}],
            "output_dir": str(self.output / name),
            "labels": dict(self.data.card.labels),
            "feature_size": self.size.feature_size,
            "load#0#reader": "monai_essa.data.VolumeReader",  # MONAI's own lack NRRD and DICOM where itk is missing
        }
        configs = ("inference.yaml", *self._intensity())
        return Stage(name, f"{name}, one test volume", segmentation.bundle, configs, values | self._network())

    def _pretext(self, name: str, title: str, method: str, values: dict[str, Any]) -> Stage:
        configs = ("train.yaml", f"method_{method}.yaml", "objective_mae.yaml", *self._intensity())
        return Stage(name, title, "essa_ssa", configs, self._run(name) | _PRETEXT | values)

    def _segmentation(self, name: str, title: str, overlays: Sequence[str], values: dict[str, Any]) -> Stage:
        task = {
            "section": self.data.sections["training"],
            "validation_section": self.data.sections["validation"],
            "labels": dict(self.data.card.labels),
            "feature_size": self.size.feature_size,
            "max_epochs": self.size.epochs.segmentation,
        }
        configs = ("train.yaml", *overlays, *self._intensity())
        return Stage(name, title, "essa_segmentation", configs, self._run(name) | _SEGMENTATION | task | values)

    def _run(self, name: str) -> dict[str, Any]:
        place = {"output_dir": str(self.output / name), "datalist": str(self.data.datalist), "seed": self.seed}
        return place | self._network()

    def _network(self) -> dict[str, Any]:
        """The keys that every stage must agree on, since the encoder moves from one to the next."""
        return {
            "spacing": list(self.data.card.spacing),
            "in_channels": self.data.card.in_channels,
            "img_size": list(self.size.img_size),
            "hidden_size": self.size.hidden_size,
            "mlp_dim": 4 * self.size.hidden_size,
            "num_heads": _HEADS,
        }

    def _intensity(self) -> tuple[str, ...]:
        return (f"intensity_{self.data.card.intensity}.yaml",)

    def _base(self) -> dict[str, Any]:
        return {"pretrained": str(self.output / "pretrain" / "model.pt")}


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
