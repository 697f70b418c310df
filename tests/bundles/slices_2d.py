# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A 2-D segmentation set of axial slices of real volumes: pictures of several sizes, masks of 0, 127 and 255."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

LABEL_MAP = {"127": 1, "255": 2}
LABELS = {"0": "background", "1": "anterior", "2": "posterior"}


def write_slices(source: Path, folder: Path, training: int = 6, held_out: int = 2) -> Path:
    """Write two slices of each volume and a dataset.json in which a patient is in one section only.

    Every second patient's images have 16 bits; the masks of every third one are saved in colours.
    """
    datalist = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    listed = [*datalist["training"], *datalist["validation"]]
    items: list[dict[str, str]] = []
    for number, item in enumerate(listed[: training + 2 * held_out]):
        image, label = (np.asarray(nib.load(source / item[key]).dataobj, dtype=float) for key in ("image", "label"))
        areas = (label > 0).sum((0, 1))
        for place in np.argsort(-areas)[[0, areas.astype(bool).sum() // 2]]:
            name = f"patient{number:02d}_slice{place:02d}.png"
            items.append({"image": f"images/{name}", "label": f"masks/{name}", "patient": f"patient{number:02d}"})
            _write_picture(folder / items[-1]["image"], image[..., place] / image.max(), bits=16 if number % 2 else 8)
            mask = np.array([0, 127, 255], dtype=np.uint8)[label[..., place].astype(int)]
            _write(folder / items[-1]["label"], np.stack([mask] * 3, -1) if number % 3 == 0 else mask)
    ends = [2 * training, 2 * (training + held_out)]
    sections = {"training": items[: ends[0]], "validation": items[ends[0] : ends[1]], "test": items[ends[1] :]}
    content = {"labels": LABELS, "label_map": LABEL_MAP} | sections
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _write_picture(path: Path, values: np.ndarray, bits: int) -> None:
    _write(path, (values * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16))


def _write(path: Path, array: np.ndarray) -> None:
    """Write an array (x, y) as a picture, whose rows come first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(np.moveaxis(array, 0, 1))).save(path)
