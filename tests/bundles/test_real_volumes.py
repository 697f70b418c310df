# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The main job on real volumes: 16 crops of T1 MRI around the hippocampus."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

RunBundle = Callable[..., ConfigWorkflow]


@pytest.mark.slow  # four epochs of each stage, so that losses fall
def test_the_main_job_learns_on_real_volumes(hippocampus_tiny: Path, run_bundle: RunBundle, tmp_path: Path) -> None:
    values = {"dataset_dir": hippocampus_tiny, "img_size": [32, 48, 32]}
    pretrained, adapted, segmented = (tmp_path / name for name in ("pretrained", "adapted", "segmented"))
    few = values | {"max_epochs": 4, "lr": 1.0e-3}
    run_bundle("essa_ssa", "train.yaml", "method_full.yaml", output_dir=pretrained, **few)
    base = {"pretrained": pretrained / "model.pt"}
    run_bundle("essa_ssa", "train.yaml", output_dir=adapted, **base, **few)
    start = base | {"adapter": adapted / "adapter.safetensors"}
    run_bundle("essa_segmentation", "train.yaml", output_dir=segmented, **start, **few, val_interval=2)

    for run in (pretrained, segmented):
        rows = [json.loads(line) for line in (run / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
        assert rows[-1]["loss"] < rows[0]["loss"]
    assert [row["epoch"] for row in rows if "validation" in row] == [2, 4]

    checkpoint = segmented / "model.pt"
    image = next((hippocampus_tiny / "imagesTr").glob("*_003.nii.gz"))
    data = [{"image": str(image)}]
    output = tmp_path / "labels"
    run_bundle("essa_segmentation", "inference.yaml", data=data, checkpoint=checkpoint, output_dir=output, **values)
    label = nib.load(output / "hippocampus_003_seg.nii.gz")
    assert label.shape == nib.load(image).shape
    assert set(np.unique(label.get_fdata())) <= {0, 1, 2}
