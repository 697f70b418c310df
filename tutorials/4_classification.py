# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Classification of 2-D and 3-D images
#
# The bundle `essa_classification` puts a head on an encoder and trains both: from random weights, from a pretrained
# encoder with a few tensors, or from the adapter of an earlier stage. This page trains on 2-D images from an NPZ file
# and on 3-D volumes from a datalist, scores both with confidence intervals, and compares them with a floor, the
# result of a linear model of the voxels. It takes about a minute on two CPU cores.
#
# **Data.** By default this page uses *template-derived heads*: deformed copies of the MNI152 brain, imaged by a
# simulated scanner. No volume shows a patient. The class is a real property of each volume: whether its brain is
# larger than the median. MNI152 (ICBM 2009a): Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre,
# Montreal Neurological Institute, McGill University; free to use, copy, modify and distribute with that notice. To
# run on real images, set the environment variable `DATA` to a folder that contains `pneumoniamnist.npz` and
# `adrenalmnist3d.npz` of MedMNIST (Yang et al. 2023, CC BY 4.0; chest X-rays of Kermany et al. 2018, CC BY 4.0), also
# in sub-folders.
#
# **Install.** In a clone of the repository: `pip install ".[tutorials]"`. This is research software,
# not a medical device.

# %%
import csv
import json
import logging
import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from IPython.display import Image
from matplotlib.axes import Axes
from monai.bundle import run
from monai.transforms import Compose, LoadImage, Resize

from monai_essa.bundling.folder import bundle_folder
from monai_essa.data import VolumeReader, classification_items
from monai_essa.demo.cohort import Scanner, deform, load_template, scan, tissue_labels
from monai_essa.evaluation.bootstrap import bootstrap_interval
from monai_essa.evaluation.metrics import area_under_roc
from monai_essa.report.charts import COLOURS, blank_figure, figure_png
from monai_essa.report.tables import format_table

logging.disable(logging.WARNING)  # what the libraries say of themselves would fill this page
WORK = Path(tempfile.mkdtemp(prefix="essa_"))
SECTIONS = {"training": 60, "validation": 20, "test": 50}

# %% [markdown]
# ## Images with a class
#
# A datalist names volumes with a `label` of 0, 1 and so on. An NPZ file in the style of MedMNIST holds small images
# together with their labels. The demo makes both from the same 130 heads: the datalist has the volumes, and the NPZ
# file has axial slices of them, four of each training head and one of every other head. No head occurs in two
# sections.


# %%
def make_heads(folder: Path) -> None:
    """Write volumes.json with NIfTI files, and slices.npz."""
    template, state = load_template(), np.random.RandomState(0)
    scanner = Scanner((0.95, 0.68, 0.42), texture=-0.6, blur=(1.0, 1.0, 2.0), bias=0.15, noise=0.04, scale=400)
    anatomies = [deform(template.as_tensor(), state) for _ in range(sum(SECTIONS.values()))]
    sizes = np.array([(tissue_labels(anatomy) > 0).sum() for anatomy in anatomies])
    heads = iter(enumerate((sizes > np.median(sizes)).astype(int).tolist()))
    datalist: dict[str, list] = {}
    arrays: dict[str, list] = {}
    for section, short in zip(SECTIONS, ("train", "val", "test"), strict=True):
        datalist[section] = []
        for name in (f"{short}_images", f"{short}_labels"):
            arrays[name] = []
        for number, label in (next(heads) for _ in range(SECTIONS[section])):
            voxels = scan(anatomies[number], scanner, state)
            nib.save(nib.Nifti1Image(voxels, np.asarray(template.affine)), folder / f"head_{number:03d}.nii")
            datalist[section].append({"image": f"head_{number:03d}.nii", "label": label})
            for level in (20, 22, 24, 26) if section == "training" else (23,):
                arrays[f"{short}_images"].append(voxels[:, ::-1, level].T)  # rows from the front to the back
                arrays[f"{short}_labels"].append([label])
    (folder / "volumes.json").write_text(json.dumps(datalist))
    grey = {name: np.clip(np.stack(images) / 2, 0, 255).astype(np.uint8) for name, images in arrays.items()}
    np.savez(folder / "slices.npz", **grey | {name: np.array(arrays[name]) for name in arrays if "labels" in name})


if "DATA" in os.environ:
    find = Path(os.environ["DATA"]).rglob
    flat, solid = next(find("pneumoniamnist*.npz")), next(find("adrenalmnist3d*.npz"))
    names = {"2-D": ("normal", "pneumonia"), "3-D": ("normal", "mass")}
else:
    make_heads(WORK)
    flat, solid = WORK / "slices.npz", WORK / "volumes.json"
    names = {"2-D": ("small", "large"), "3-D": ("small", "large")}

# %%
load = LoadImage(reader=VolumeReader(), ensure_channel_first=True)


def middle(image: np.ndarray) -> np.ndarray:
    """The image, or the middle slice of a volume, as (row, column)."""
    return np.asarray(image[0] if image.ndim == 3 else image[0][..., image.shape[-1] // 2]).T


figure = blank_figure(height=3.6)
for row, (kind, source) in enumerate({"2-D": flat, "3-D": solid}.items()):
    items = classification_items(source, "training")
    for label in (0, 1):
        for place, item in enumerate([item for item in items if item["label"] == label][:12:4]):
            axes = figure.add_subplot(2, 6, 6 * row + 3 * label + place + 1)
            picture = middle(load(item["image"]))
            axes.imshow(picture if kind == "2-D" else picture[::-1], cmap="gray")
            axes.set_title(f"{kind}: {names[kind][label]}", fontsize=8)
            axes.set_axis_off()
Image(figure_png(figure))

# %% [markdown]
# ## Train and score
#
# A run uses `train.yaml` of the bundle with overlays and values, as in
# `python -m monai.bundle run --config_file "[...]" --key value`. It keeps the epoch with the best AUC on the
# validation section. With `evaluate.yaml` as the last config it then scores the finished run once on the test
# section, and writes `test/predictions.csv` and `test/metrics.json`.
#
# The networks are small ViTs, trained from random weights (`start_random.yaml`). The augmentation of the bundle
# stretches images, which would change the class of a head, so the demo turns it off.


# %%
def configs(bundle: str, *overlays: str) -> list[str]:
    return [str(bundle_folder(bundle) / "configs" / f"{name}.yaml") for name in ("train", *overlays)]


def classify(name: str, source: Path, *overlays: str, **values: object) -> dict[str, dict[str, float]]:
    """Train and score; the metrics of the test section."""
    values |= {"datalist": str(source), "output_dir": str(WORK / name)}
    run(config_file=configs("essa_classification", *overlays), logging_file=False, **values)
    values["validation_section"] = "test"
    run(config_file=configs("essa_classification", *overlays, "evaluate"), logging_file=False, **values)
    return json.loads((WORK / name / "test" / "metrics.json").read_text())["metrics"]


small_vit = {"hidden_size": 48, "mlp_dim": 192, "num_layers": 3, "num_heads": 4, "lr": 1.0e-3, "val_interval": 4}
if "DATA" in os.environ:
    in_2d = small_vit | {"img_size": [28, 28], "patch_size": 4, "batch_size": 32, "max_epochs": 12}
    in_2d |= {"samples_per_epoch": 800}
    in_3d = small_vit | {"img_size": [32, 32, 32], "patch_size": 8, "batch_size": 32, "max_epochs": 16}
    in_3d |= {"weight_decay": 0.05}
    overlays_3d = ["intensity_8bit", "fit_resize", "augment_shape"]  # aligned masks: their place counts
else:
    in_2d = small_vit | {"img_size": [48, 64], "patch_size": 8, "batch_size": 16, "max_epochs": 12, "augment": []}
    in_3d = small_vit | {"img_size": [48, 64, 48], "patch_size": 8, "batch_size": 10, "max_epochs": 12, "augment": []}
    in_3d |= {"spacing": [3.75, 3.75, 3.75]}
    overlays_3d = []
in_3d |= {"pooling": "flatten", "val_interval": 6}  # all tokens side by side: the place in the image counts
in_2d["labels"], in_3d["labels"] = ({name: number for number, name in enumerate(names[kind])} for kind in names)

metrics = {
    "2-D ViT from nothing": classify("flat", flat, "start_random", "images_2d", **in_2d),
    "3-D ViT from nothing": classify("solid", solid, "start_random", *overlays_3d, **in_3d),
}

# %% [markdown]
# ## From a pretrained encoder, with few tensors
#
# This is the purpose of the library: to take an encoder that has seen images without labels, and to train only a few
# of its tensors and the head. Here every parameter of the 2-D encoder first learns to fill in masked patches of the
# training images (`essa_ssa`, MAE); then APLA, the default, adapts it to the classes. With a public base, first run
# SSA on your scans, and then train with `--pretrained BASE --adapter runs/ssa/adapter.safetensors`.

# %%
vit = ("img_size", "patch_size", "hidden_size", "mlp_dim", "num_layers", "num_heads")
run(
    config_file=configs("essa_ssa", "images_2d", "method_full"),
    logging_file=False,
    output_dir=str(WORK / "pretrained"),
    datalist=str(flat),
    section="training",
    samples_per_epoch=240,
    batch_size=16,
    max_epochs=8,
    val_interval=4,
    lr=1.5e-3,
    **{key: in_2d[key] for key in vit},
)
start = {"start": "encoder", "pretrained": str(WORK / "pretrained" / "model.pt"), "lr": 3.0e-3}
metrics["2-D ViT, MAE then APLA"] = classify("flat_apla", flat, "images_2d", **in_2d | start)

# %% [markdown]
# ## A floor
#
# The floor is ridge regression on the voxels, which knows nothing about images; its penalty is chosen on the
# validation section. A network that does not beat it is not worth its cost.

# %%
shrink = Compose([LoadImage(reader=VolumeReader(), ensure_channel_first=True), Resize((24, 32, 24))])


def voxels_and_classes(source: Path, section: str) -> tuple[np.ndarray, np.ndarray]:
    items = classification_items(source, section)
    read = load if source == flat else shrink
    voxels = np.stack([np.asarray(read(item["image"]), dtype=np.float64).ravel() for item in items])
    return voxels, np.array([item["label"] for item in items])


def ridge(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the test section, and its classes."""
    (voxels, classes), validation, test = (voxels_and_classes(source, section) for section in SECTIONS)
    mean, scale = voxels.mean(0), voxels.std()
    known = (voxels - mean) / scale

    def scores(images: np.ndarray, penalty: float) -> np.ndarray:
        dual = np.linalg.solve(known @ known.T + penalty * np.eye(len(known)), 2.0 * classes - 1)
        return (images - mean) / scale @ known.T @ dual

    penalty = max(
        (1e2, 1e3, 1e4, 1e5), key=lambda value: area_under_roc(*pair(scores(validation[0], value), validation[1]))
    )
    return scores(test[0], penalty), test[1]


def pair(scores: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two columns, as the metrics take them."""
    return np.stack([-scores, scores], axis=1), np.eye(2, dtype=int)[classes]


floors = {"2-D": ridge(flat), "3-D": ridge(solid)}
for kind, found in floors.items():
    metrics[f"{kind} ridge regression"] = {
        "auc": vars(bootstrap_interval(area_under_roc, *pair(*found), bounds=(0, 1)))
    }


def cell(interval: dict[str, float] | None) -> str:
    return "{value:.3f} ({low:.3f} to {high:.3f})".format(**interval) if interval else ""


shown = ("auc", "balanced_accuracy", "expected_calibration_error")
rows = [[name, *(cell(found.get(metric)) for metric in shown)] for name, found in sorted(metrics.items())]
print(format_table(["test section", "AUC (95 % interval)", "balanced accuracy", "calibration error"], rows))

# %%
runs = {"2-D ViT from nothing": "flat", "2-D ViT, MAE then APLA": "flat_apla", "3-D ViT from nothing": "solid"}


def predictions(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """The probability of the second class of each test image, and the classes."""
    with (WORK / folder / "test" / "predictions.csv").open() as file:
        rows = list(csv.reader(file))
    return np.array([float(row[3]) for row in rows[1:]]), np.array([int(row[1] == rows[0][3]) for row in rows[1:]])


def draw_roc(axes: Axes, scores: np.ndarray, classes: np.ndarray, **style: object) -> None:
    order = np.argsort(-scores, kind="stable")
    hits, alarms = (np.cumsum(classes[order] == label) / (classes == label).sum() for label in (1, 0))
    axes.plot([0, *alarms], [0, *hits], **style)


def draw_reliability(axes: Axes, scores: np.ndarray, classes: np.ndarray, **style: object) -> None:
    bins = np.minimum((scores * 5).astype(int), 4)
    filled = [number for number in range(5) if (bins == number).any()]
    points = [(scores[bins == number].mean(), classes[bins == number].mean()) for number in filled]
    axes.plot(*zip(*points, strict=True), marker="o", **style)


figure = blank_figure(height=4.2)
roc, reliability = figure.subplots(1, 2)
for number, (name, folder) in enumerate(runs.items()):
    draw_roc(roc, *predictions(folder), color=COLOURS[number], label=name)
    draw_reliability(reliability, *predictions(folder), color=COLOURS[number])
for kind, style in {"2-D": "--", "3-D": ":"}.items():
    draw_roc(roc, *floors[kind], color="0.5", linestyle=style, label=f"{kind} ridge regression")
reliability.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
roc.set(title="ROC, test section", xlabel="false alarms", ylabel="hits", aspect="equal")
reliability.set(title="Calibration, five bins", xlabel="probability given", ylabel="share that was so", aspect="equal")
figure.legend(*roc.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
Image(figure_png(figure))

# %% [markdown]
# **How to read this.** On the demo's heads ridge regression is as good as the networks or better: the size of a brain
# is nearly linear in the voxels, and sixty heads are few for a network. This is why a floor is useful. With fifty
# test heads the intervals are a tenth wide or more, each bin of the calibration holds only a few heads, and the
# settings of this page were tried on these very heads, so the numbers do not estimate anything. The epoch is chosen
# by the AUC, which does not depend on whether the probabilities are right: look at the calibration before you use
# them.
#
# With `DATA` this page takes four minutes on one CPU core. At commit 932d20e the AUC on PneumoniaMNIST was 0.946
# (0.928 to 0.962) from random weights and 0.909 (0.884 to 0.930) with MAE and then APLA, against 0.925 for ridge
# regression. On AdrenalMNIST3D it was 0.836 (0.782 to 0.884) against 0.829. With full-length training, the README of
# the bundle reports 0.960 and 0.864.
#
# ## What next
#
# - The finished network predicts without monai_essa: run `python -m monai.bundle run --config_file
#   essa_classification/configs/inference.yaml --checkpoint RUN/model.pt --dataset_dir IMAGES` with the overlays of
#   the run.
# - For several classes in one image add `loss_bce.yaml`; for rare classes, `weights_balanced.yaml`; for a CNN,
#   `network_segresnet.yaml`.
# - If a patient has several images, patients are recognised by the names of the files, and the intervals draw
#   patients, not images.
# - To run TPP first, with its controls, see the README of [essa_tpp](../bundles/essa_tpp/docs/README.md).
