# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""The loop of labelling on the demo cohort, by MONAI Label's client: the numbers of docs/label.md.

python -m tests.label.demo_loop FOLDER [SEED ...]

A network is pre-trained on scanner A without labels and fitted to the two validation volumes of scanner B for a short
time. A server gives it to a reader of scanner B: 27 volumes, of which three get labels and eight are measured on.
Needs the extras [label] and [demo].
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monailabel.client.client import MONAILabelClient

from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.folder import bundle_folder, make_label_folder
from monai_essa.data import load_datalist
from monai_essa.demo.cohort import CohortSize
from monai_essa.demo.data import DemoData, cohort_data
from monai_essa.demo.run import DemoSize, base_stage
from monai_essa.study.stages import Stage, quiet_libraries, run_stage, write_stage
from tests.label.conftest import serve_command, serving

MODEL = "tissue_segmentation"
CLASSES = {"gray matter": 1, "white matter": 2}
FIT = {"max_epochs": 3, "samples_per_epoch": 20, "lr": 1.0e-3}


def make_bundle(folder: Path, seed: int) -> tuple[Path, DemoData]:
    """Trains the network that a reader is given."""
    data, size = cohort_data(folder / "cohort", CohortSize(), seed), DemoSize()
    base = base_stage(data, folder, size, seed)
    run_stage(write_stage(base, folder))
    values = {key: base.values[key] for key in ("spacing", "img_size", "hidden_size", "mlp_dim", "num_heads")}
    values |= {"feature_size": size.feature_size, "labels": dict(data.card.labels)}
    run = {"output_dir": str(folder / "fit"), "datalist": str(data.datalist), "seed": seed, "batch_size": 1}
    section = dict.fromkeys(("section", "validation_section"), data.sections["validation"])
    start = {"start": "encoder", "pretrained": str(folder / "base" / "model.pt"), "head_lr_factor": 5.0}
    configs = ("train.yaml", "method_apla.yaml", "intensity_mr.yaml")
    fit = Stage("fit", "fit", "essa_segmentation", configs, values | run | section | start | FIT)
    run_stage(write_stage(fit, folder))
    variant = BundleVariant(MODEL, {"method": "apla", "intensity": "mr"}, values, folder / "fit")
    return copy_bundle(bundle_folder("essa_segmentation"), folder, variant), data


def make_studies(folder: Path, data: DemoData) -> dict[str, dict[str, Path]]:
    """Links every volume of scanner B but those two into one folder, and gives the labels by image id."""
    (folder / "studies").mkdir()
    labels: dict[str, dict[str, Path]] = {}
    for section, keys in (("unlabeled", ["image"]), ("training", ["image", "label"]), ("test", ["image", "label"])):
        items = load_datalist(data.datalist, data.sections[section], keys=keys)
        for item in items:
            (folder / "studies" / Path(item["image"]).name).symlink_to(item["image"])
        names = [Path(item["image"]).name.removesuffix(".nii.gz") for item in items]
        labels[section] = {
            name: Path(item["label"]) for name, item in zip(names, items, strict=True) if "label" in item
        }
    return labels


class Reader:
    """Who sits before the viewer."""

    def __init__(self, url: str, folder: Path) -> None:
        folder.mkdir()
        self.client = MONAILabelClient(url, tmpdir=str(folder))

    def dice(self, labels: dict[str, Path], adapter: str) -> np.ndarray:
        """Dice of the proposals, (volumes, classes)."""
        rows = []
        for image, label in labels.items():
            proposed = np.asarray(nib.load(self.client.infer(MODEL, image, {"adapter": adapter})[0]).dataobj)
            truth = np.asarray(nib.load(label).dataobj)
            rows.append([_dice(proposed == number, truth == number) for number in CLASSES.values()])
        return np.array(rows)

    def train(self, trainer: str, **values: Any) -> int:
        """Train to the end; the seconds from the request on."""
        begun = time.monotonic()
        self.client.train_start(trainer, values)
        while (status := self.client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.5)
        if status["status"] != "DONE":
            raise RuntimeError("\n".join(status["details"]))
        return round(time.monotonic() - begun)


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.logical_and(one, other).sum() / (one.sum() + other.sum())


def read_and_train(server: Any, folder: Path, labels: dict[str, dict[str, Path]]) -> dict[str, Any]:
    """Measures the bundle, an adapter, and an adapter after SSA."""
    reader, options = Reader(server.url, folder / "client"), {"val_split": 0.34, "device": "cpu"}
    dice, seconds = {"the bundle": reader.dice(labels["test"], "base")}, {}
    for image, label in labels["training"].items():
        reader.client.save_label(image, str(label))
    seconds["adapter"] = reader.train(MODEL, adapter="labels_only", **options)
    dice["with an adapter"] = reader.dice(labels["test"], "labels_only")
    seconds["SSA"] = reader.train(f"{MODEL}_ssa", adapter="after_ssa", device="cpu")
    seconds["adapter after SSA"] = reader.train(MODEL, adapter="after_ssa", **options)
    dice["with an adapter after SSA"] = reader.dice(labels["test"], "after_ssa")
    stats = reader.client.info()["train_stats"][MODEL]["adapters"]
    return {"dice": {name: values.tolist() for name, values in dice.items()}, "seconds": seconds, "stats": stats}


def run(folder: Path, seed: int) -> dict[str, Any]:
    """The whole loop for one seed, of the cohort and of the training of the bundle."""
    folder.mkdir(parents=True)
    with quiet_libraries():
        bundle, data = make_bundle(folder, seed)
    labels = make_studies(folder, data)
    app = make_label_folder(folder / "app", [bundle])
    (folder / "server").mkdir()
    command = serve_command(app, folder / "studies")
    with serving(
        command, app, folder / "studies", folder / "server" / "log", MONAI_LABEL_AUTO_UPDATE_SCORING="false"
    ) as server:
        result = read_and_train(server, folder, labels)
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Mean Dice over volumes and seeds."""
    rows = [f"| | mean Dice | {' | '.join(CLASSES)} | better than the bundle on |", "|---|---|---|---|---|"]
    first = np.array([result["dice"]["the bundle"] for result in results])
    for name in results[0]["dice"]:
        dice = np.array([result["dice"][name] for result in results])  # (seeds, volumes, classes)
        better = (dice.mean(2) > first.mean(2)).sum()
        classes = " | ".join(f"{value:.3f}" for value in dice.mean((0, 1)))
        rows.append(f"| {name} | {dice.mean():.3f} | {classes} | {better} of {dice[..., 0].size} |")
    return "\n".join(rows)


if __name__ == "__main__":
    seeds = [int(seed) for seed in sys.argv[2:]] or [0]
    results = [run(Path(sys.argv[1]).absolute() / f"seed_{seed}", seed) for seed in seeds]
    for seed, result in zip(seeds, results, strict=True):
        sys.stdout.write(f"seed {seed}, seconds from the request to its end: {result['seconds']}\n")
    sys.stdout.write(f"{table(results)}\n")
