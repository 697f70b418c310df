# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The demo: a study of a fixed size on the demo cohort, with a base that was pre-trained on another scanner."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_essa.data import load_datalist
from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.data import DemoData, cohort_data, own_data
from monai_essa.files import write_text_whole
from monai_essa.planning.networks import Network
from monai_essa.study.run import run_study
from monai_essa.study.splits import SplitRequest
from monai_essa.study.stages import Stage, Timings, quiet_libraries, run_stage, write_stage
from monai_essa.study.terms.request import AdaptRequest, Preset, StudyRequest
from monai_essa.study.workers import in_child

__all__ = ["DemoSize", "base_stage", "demo_network", "run_demo"]

_ARMS = ("ssa", "no_ssa", "scratch")
_IMG_SIZE = (48, 64, 48)
_CAUTION = "the demo: one repeat, a small network and a few minutes show that every step runs, not what helps elsewhere"
# About what the stages take on two cores; the demo measures nothing.
_TIMINGS = Timings(2.0, 0.05, 0.4, {"base": 0.4, "ssa": 0.3, "peft": 0.5, "full": 0.7, "scratch": 0.7})
_LISTED = ("training", "validation", "test", "unlabeled")


@dataclass(frozen=True)
class DemoSize:
    """Set the size of the demo; the defaults take less than five minutes on two cores.

    Args:
        cohort: volumes per section, default 53 in total.
        hidden_size: width of the encoder, a multiple of 6, default 192.
        feature_size: width of the decoder at full resolution, default 8.
        steps: of each training on labels and of SSA; the base takes twice as many, default 40.
    """

    cohort: CohortSize = field(default_factory=CohortSize)
    hidden_size: int = 192
    feature_size: int = 8
    steps: int = 40


def run_demo(data: Path | None, output: Path, seed: int, size: DemoSize | None = None) -> int:
    """Pre-train a base, then compare SSA, no SSA and training from nothing with three labels, and report.

    It is ``monai-essa adapt`` with a size that is fixed beforehand; a second call goes on where the first one ended.

    Args:
        data: an MSD-style folder, on whose own scans the base is made; None for the template-derived cohort.
        output: folder of the cohort, the base and, in ``study``, of the study.
        seed: seed of the data and of every run.
        size: size of the demo; default ``DemoSize()``.

    Returns:
        0, or 1 if no arm ended well.

    Raises:
        ImportError: if the extra [demo] is not installed.
        RuntimeError: if ``data`` does not fit the demo, or a bundle refuses it.
    """
    needed = ("matplotlib", "jinja2") if data is not None else ("nilearn", "matplotlib", "jinja2")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ImportError(f'the demo needs {" and ".join(missing)}: pip install "monai_essa[demo]"')
    size, output = size or DemoSize(), output.absolute()
    base = output / "base" / "model.pt" if data is None else None
    if not (output / "scans.json").is_file():
        tqdm.write("making the demo cohort" if data is None else "reading the scans")
        in_child(_prepare, data, output, size, seed)
    values: dict[str, Any] = {"img_size": list(_IMG_SIZE)}
    if base is not None:
        if not base.is_file():
            tqdm.write("pre-training of the base on another scanner (MAE, all parameters)")
            in_child(_run_quietly, output / "stages" / "base.yaml")
        values["pretext_head"] = str(base.with_name("pretext_head.safetensors"))
    preset = Preset(_ARMS, size.steps, demo_network(size), _TIMINGS, _CAUTION)
    request = AdaptRequest(
        scans=output / "scans.json",
        split=SplitRequest(label_count=size.cohort.training, repeats=1, seed=seed),
        study=StudyRequest(None if base is None else str(base), values=values, seed=seed, preset=preset),
    )
    return run_study(request, output / "study")


def demo_network(size: DemoSize) -> Network:
    """Return the network of a demo: a small ViT, and a UNETR around it."""
    sizes = {"hidden_size": size.hidden_size, "mlp_dim": 4 * size.hidden_size, "num_heads": 6, "num_layers": 12}
    return Network("a small UNETR", "vit", sizes, size.feature_size, max(_IMG_SIZE))


def base_stage(data: DemoData, output: Path, size: DemoSize, seed: int) -> Stage:
    """Return the stage that pre-trains the base: masked autoencoding on the source, every parameter.

    Args:
        data: of the demo.
        output: folder whose ``base`` becomes the run folder.
        size: of the demo.
        seed: of the run.
    """
    values: Mapping[str, Any] = {
        "output_dir": str(output / "base"),
        "datalist": str(data.datalist),
        "section": data.sections["source"],
        "seed": seed,
        "spacing": list(data.card.spacing),
        "in_channels": data.card.in_channels,
        "img_size": list(_IMG_SIZE),
        **demo_network(size).values,
        "max_epochs": 4,
        "samples_per_epoch": size.steps // 2 * 8,
        "batch_size": 8,
        "val_interval": 4,
        "lr": 1.0e-3,
    }
    configs = ("train.yaml", "method_full.yaml", f"intensity_{data.card.intensity}.yaml")
    return Stage("base", "pre-training of the base", "essa_ssa", configs, values)


def _prepare(folder: Path | None, output: Path, size: DemoSize, seed: int) -> None:
    """Write the scans, the stage of the base and, last, the list of the study, which goes by absolute paths."""
    output.mkdir(parents=True, exist_ok=True)
    data = _data(folder, output, size, seed)
    if data.template_derived:
        write_stage(base_stage(data, output, size, seed), output)
    about = {"labels": {str(number): name for name, number in data.card.labels.items()}, "modality": {"0": "MR"}}
    if data.card.intensity == "ct":
        about["modality"] = {"0": "CT"}
    sections = {
        name: load_datalist(
            data.datalist, data.sections[name], ("image",) if name == "unlabeled" else ("image", "label")
        )
        for name in _LISTED
    }
    write_text_whole(output / "scans.json", json.dumps({**about, **_without_repeats(sections)}))


def _without_repeats(sections: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Leave out of ``unlabeled`` the scans that another section has: one's own folder lists them in both."""
    labelled = {str(item["image"]) for name, items in sections.items() if name != "unlabeled" for item in items}
    apart = [item for item in sections["unlabeled"] if str(item["image"]) not in labelled]
    return {**sections, "unlabeled": apart}


def _run_quietly(path: Path) -> None:
    with quiet_libraries():
        run_stage(path)


def _data(folder: Path | None, output: Path, size: DemoSize, seed: int) -> DemoData:
    if folder is None:
        shutil.rmtree(output / "cohort", ignore_errors=True)  # of a demo that was killed before its list was written
        return cohort_data(output / "cohort", size.cohort, seed)
    return own_data(folder, output / "own.json", size.cohort, _IMG_SIZE, seed)
