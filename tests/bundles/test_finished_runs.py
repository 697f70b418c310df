# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a finished run is used for: label maps, scores, features and pictures of reconstructions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from monai.networks.nets import ViT

from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.folder import bundle_folder
from monai_essa.evaluation.run_scores import read_run

RunBundle = Callable[..., ConfigWorkflow]


def test_inference_writes_a_label_map_for_each_volume(
    stages, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    checkpoint = stages.segmented / "model.pt"
    run_bundle(
        "essa_segmentation",
        "inference.yaml",
        dataset_dir=volumes,
        pattern="image_0[0-2]*",
        output_dir=tmp_path,
        checkpoint=checkpoint,
    )
    files = sorted(tmp_path.glob("*.nii.gz"))
    assert [file.name for file in files] == [f"image_0{number}_seg.nii.gz" for number in range(3)]
    label = nib.load(files[0])
    assert label.get_data_dtype() == np.uint8
    assert label.shape == nib.load(volumes / "image_00.nii.gz").shape
    assert set(np.unique(label.get_fdata())) <= {0, 1, 2}


def test_evaluation_scores_each_case_and_leaves_the_run_alone(
    stages, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    run = shutil.copytree(stages.segmented, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    files, section = ("train.yaml", "evaluate.yaml"), "validation"
    run_bundle("essa_segmentation", *files, dataset_dir=volumes, output_dir=run, validation_section=section)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rows = [line.split(",") for line in (run / "test" / "dice_raw.csv").read_text().splitlines()]
    assert rows[0] == ["filename", "class0", "class1", "mean"]
    assert [Path(row[0]).name for row in rows[1:]] == ["image_04.nii.gz", "image_05.nii.gz"]
    best = json.loads((run / "losses.jsonl").read_text())["validation"]["val_mean_dice"]
    assert np.mean([float(row[3]) for row in rows[1:]]) == pytest.approx(best, abs=1e-6)
    assert list(read_run(run).scores.values()) == pytest.approx([float(row[3]) for row in rows[1:]], abs=1e-6)


def test_features_are_the_mean_tokens_of_the_adapted_encoder(
    stages, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    files = {"dataset_dir": volumes, "pattern": "image_0[0-2]*", "checkpoint": stages.adapted / "model.pt"}
    workflow = run_bundle("essa_ssa", "inference.yaml", output_dir=tmp_path, **files)
    rows = [row.split(",") for row in (tmp_path / "features.csv").read_text().splitlines()]
    assert [Path(row[0]).name for row in rows] == [f"image_0{number}.nii.gz" for number in range(3)]

    encoder = ViT(1, [32] * 3, 16, hidden_size=48, mlp_dim=96, num_layers=12, num_heads=4, qkv_bias=True).eval()
    encoder.load_state_dict(torch.load(stages.adapted / "model.pt", weights_only=True))
    images = torch.stack([item["image"].as_tensor() for item in workflow.parser.get_parsed_content("dataset")])
    with torch.no_grad():
        expected = encoder(images)[0].mean(1)
    got = torch.tensor([[float(value) for value in row[1:]] for row in rows])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_finished_run_reconstructs_its_held_out_scans(
    stages, volumes: Path, run_bundle: RunBundle, tmp_path: Path
) -> None:
    for name in ("model.pt", "pretext_head.safetensors"):
        (tmp_path / name).write_bytes((stages.adapted / name).read_bytes())
    run_bundle("essa_ssa", "train.yaml", "reconstruct.yaml", dataset_dir=volumes, output_dir=tmp_path)
    assert [path.name for path in (tmp_path / "reconstructions").iterdir()] == ["0000.png"]
    same = (tmp_path / "reconstructions" / "0000.png").read_bytes() == (
        stages.adapted / "reconstruction.png"
    ).read_bytes()
    assert same, "the merged network and the loaded head give the picture that the training ended with"


def test_the_bundle_of_a_run_passes_the_checks_of_the_model_zoo(stages, volumes: Path, tmp_path: Path) -> None:
    """Those of its CI: files, version, metadata, shapes of the network with its weights, script, and the properties."""
    variant = BundleVariant("organ_mr_segmentation", run=stages.segmented)
    bundle = copy_bundle(bundle_folder("essa_segmentation"), tmp_path, variant)
    configs, root = bundle / "configs", str(bundle)
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf", "models/model.pt"):
        assert (bundle / name).stat().st_size > 0
    metadata = json.loads((configs / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["version"] in metadata["changelog"] and metadata["name"] == bundle.name
    meta, inference = str(configs / "metadata.json"), str(configs / "inference.yaml")
    verify_metadata(meta, filepath=Path(__file__).with_name("metadata_schema.json"))
    verify_net_in_out("network_def", meta_file=meta, config_file=inference, bundle_root=root, device="cpu")
    weights, script = bundle / "models" / "model.pt", bundle / "models" / "model.ts"
    ckpt_export("network_def", str(script), str(weights), meta_file=meta, config_file=inference, bundle_root=root)
    assert torch.jit.load(script)(torch.zeros(1, 1, 32, 32, 32)).shape == (1, 3, 32, 32, 32)
    places = {"bundle_root": root, "dataset_dir": str(volumes), "logging_file": False}
    for kind, config in (("infer", "inference.yaml"), ("train", "train.yaml")):
        workflow = ConfigWorkflow(str(configs / config), meta_file=meta, workflow_type=kind, **places)
        workflow.initialize()
        assert workflow.check_properties() == []
