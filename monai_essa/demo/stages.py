# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The stages of the demo: each is a shipped bundle with its overlays and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.data import DemoData
from monai_essa.study.stages import Stage

__all__ = ["DemoPlan", "DemoSize", "Epochs"]

_HEADS = 6
_PRETEXT: dict[str, Any] = {"batch_size": 4, "samples_per_epoch": 96}
# The bundles' rates are for long runs. These were chosen by the validation Dice after SSA and serve for every start.
_SEGMENTATION: dict[str, Any] = {"batch_size": 1, "samples_per_epoch": 10, "lr": 2.0e-3, "head_lr_factor": 5.0}


@dataclass(frozen=True)
class Epochs:
    """Set the epochs of each kind of stage: an epoch has 24 steps without labels and 10 with them."""

    pretraining: int = 10
    adaptation: int = 8
    segmentation: int = 6


@dataclass(frozen=True)
class DemoSize:
    """Set the size of the demo; the defaults take less than five minutes on two cores.

    Args:
        cohort: volumes per section, default 53 in total.
        img_size: crop in voxels, multiples of 16, default (48, 64, 48).
        hidden_size: width of the encoder, a multiple of 6, default 192.
        feature_size: width of the decoder at full resolution, default 8.
        epochs: epochs of the stages.
    """

    cohort: CohortSize = field(default_factory=CohortSize)
    img_size: tuple[int, int, int] = (48, 64, 48)
    hidden_size: int = 192
    feature_size: int = 8
    epochs: Epochs = field(default_factory=Epochs)


@dataclass(frozen=True)
class DemoPlan:
    """Compose the stages of a demo; the run folder of a stage is ``output / stage.name``.

    Args:
        data: the data that the stages run on.
        size: the size of the demo.
        output: folder of the demo.
        seed: seed of every run.
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
        """Adapt that encoder to the unlabelled target: SSA with APLA, which continues with the same MAE decoder."""
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
            segmentation: the finished stage.
            image: a file, or one file for each channel.
            name: name of the new stage.
        """
        values = {
            "checkpoint": str(self.output / segmentation.name / "model.pt"),
            "data": [{"image": image}],
            "output_dir": str(self.output / name),
            "labels": dict(self.data.card.labels),
            "feature_size": self.size.feature_size,
            "load#0#reader": "monai_essa.data.VolumeReader",  # MONAI's own readers need itk for NRRD and DICOM
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
        """Return the values that all stages must share, since the encoder moves from one to the next."""
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
