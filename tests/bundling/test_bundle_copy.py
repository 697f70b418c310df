# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A copy is a whole bundle or nothing, and every verb of monai.bundle takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import ckpt_export, verify_metadata, verify_net_in_out

from monai_essa.bundling.copy import BundleVariant, copy_bundle
from monai_essa.bundling.finished_run import network_of_config
from monai_essa.bundling.folder import bundle_folder

SCHEMA = Path(__file__).resolve().parents[1] / "bundles" / "metadata_schema.json"
WIDTH: dict[str, Any] = {"img_size": [32] * 3, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
# The smallest size at which the last norm of a Swin UNETR sees more than one voxel.
SWIN: dict[str, Any] = {"img_size": [64, 32, 32], "feature_size": 12}
CNN: dict[str, Any] = {"img_size": [32] * 3, "feature_size": 8}
FLAT: dict[str, Any] = {"img_size": [8, 8], "patch_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2}
CLASSES: dict[str, Any] = {"labels": {"normal": 0, "nodule": 1, "mass": 2}}
VARIANTS = [
    (
        "essa_segmentation",
        {"network": "unetr"},
        WIDTH | {"feature_size": 4, "labels": {"background": 0, "a": 1, "b": 2}},
    ),
    ("essa_segmentation", {"network": "swin_unetr"}, SWIN),
    ("essa_segmentation", {"network": "segresnet"}, CNN),
    ("essa_ssa", {"network": "unetr"}, WIDTH),
    ("essa_ssa", {"network": "segresnet", "images": "2d"}, CNN | {"img_size": [32, 32]}),
    ("essa_ssa", {"network": "resnet"}, CNN | {"img_size": [64, 32, 32]}),
    ("essa_tpp", {"images": "2d", "method": "ssf"}, FLAT),
    ("essa_segmentation", {"images": "2d", "intensity": "fundus"}, WIDTH | {"img_size": [32, 32]}),
    ("essa_segmentation", {"images": "2d", "network": "swin_unetr"}, SWIN | {"img_size": [64, 64]}),
    ("essa_segmentation", {"images": "2d", "network": "segresnet"}, CNN | {"img_size": [32, 32]}),
    ("essa_classification", {"images": "2d"}, FLAT | CLASSES),
    # Each network, each bundle and each number of dimensions is above; the other variants are products of them.
    pytest.param("essa_ssa", {"network": "vit"}, WIDTH, marks=pytest.mark.full),
    pytest.param("essa_ssa", {"network": "swin_unetr"}, SWIN, marks=pytest.mark.full),
    pytest.param("essa_ssa", {"network": "segresnet"}, CNN, marks=pytest.mark.full),
    pytest.param("essa_ssa", {"images": "2d"}, FLAT, marks=pytest.mark.full),
    pytest.param("essa_classification", {"network": "vit"}, WIDTH | CLASSES, marks=pytest.mark.full),
]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_the_files_of_the_bundle_but_for_the_overlays_of_the_network(tmp_path: Path) -> None:
    source = bundle_folder("essa_segmentation")
    folder = copy_bundle(source, tmp_path, BundleVariant("spleen", {"network": "unetr"}, WIDTH))
    gone = {name for name in names(source) if name.startswith("configs/network_")}
    assert folder == tmp_path / "spleen"
    assert names(folder) == {name for name in names(source) - gone if "__pycache__" not in name}
    assert [path.name for path in tmp_path.iterdir()] == ["spleen"]


def test_the_weights_of_a_run_come_with_it(segmentation_runs, tmp_path: Path) -> None:
    values = WIDTH | {"feature_size": 4, "labels": {"background": 0, "ball": 1}}
    variant = BundleVariant("ball", {}, values, segmentation_runs[0])
    folder = copy_bundle(bundle_folder("essa_segmentation"), tmp_path, variant)
    assert {"models/model.pt", "models/adapter.safetensors"} <= names(folder)
    assert "holds no weights" not in json.loads((folder / "configs" / "metadata.json").read_text())["description"]


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "spleen").mkdir()
    (tmp_path / "spleen" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="expected a new folder"):
        copy_bundle(bundle_folder("essa_ssa"), tmp_path, BundleVariant("spleen"))
    assert names(tmp_path) == {"spleen/notes.txt"}


@pytest.mark.parametrize(
    "name", ["./x", "../x", "a/x", "a\\x", "/x", ".x", "..", "", "$x", "@x", "%x", "x\n", "x\u2028", "x" * 101]
)
def test_a_name_that_is_more_than_a_name_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match="^--name: expected text of at most 100 characters"):
        copy_bundle(bundle_folder("essa_ssa"), tmp_path / "here", BundleVariant(name))
    assert names(tmp_path) == set()


def test_what_is_beside_the_copy_stays(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in ("x.part", ".x.part", "x.partial", ".x.partial")]
    for path in mine:
        path.mkdir()
        (path / "notes.txt").write_text("mine", encoding="utf-8")
    copy_bundle(bundle_folder("essa_ssa"), tmp_path, BundleVariant("x", {}, WIDTH))
    with pytest.raises(ValueError, match="--network no"):
        copy_bundle(bundle_folder("essa_ssa"), tmp_path, BundleVariant("y", {"network": "no"}))
    assert {path.name for path in tmp_path.iterdir()} == {"x", *(path.name for path in mine)}
    assert all((path / "notes.txt").read_text(encoding="utf-8") == "mine" for path in mine)


def test_a_link_that_leads_nowhere_is_not_taken_for_a_free_name(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError, match="x exists; expected a new folder"):
        copy_bundle(bundle_folder("essa_ssa"), tmp_path, BundleVariant("x"))


@pytest.mark.parametrize("variant", [BundleVariant("x", {"network": "no"}), BundleVariant("x", run=Path("nowhere"))])
def test_nothing_stays_of_a_copy_that_fails(variant: BundleVariant, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError)):
        copy_bundle(bundle_folder("essa_ssa"), tmp_path, variant)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # traces the network of the copy for TorchScript, and checks the trace
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("bundle", "overlays", "values"), VARIANTS)
def test_every_variant_passes_the_verbs_of_monai_bundle(
    bundle: str, overlays: dict[str, str], values: dict[str, Any], volumes: Path, tmp_path: Path
) -> None:
    folder = copy_bundle(bundle_folder(bundle), tmp_path, BundleVariant("mine", overlays, values))
    inference, meta = folder / "configs" / "inference.yaml", folder / "configs" / "metadata.json"
    verify_metadata(str(meta), filepath=SCHEMA)
    verify_net_in_out("network_def", meta_file=str(meta), config_file=str(inference), device="cpu")

    model = network_of_config([inference], {}).eval()
    (folder / "models").mkdir()
    torch.save(model.state_dict(), folder / "models" / "model.pt")
    ckpt_export("network_def", config_file=str(inference), bundle_root=str(folder), use_trace=True)
    channels = json.loads(meta.read_text(encoding="utf-8"))["network_data_format"]["inputs"]["image"]["num_channels"]
    image = torch.randn(1, channels, *values["img_size"])
    with torch.no_grad():
        exported, expected = torch.jit.load(folder / "models" / "model.ts")(image), model(image)
    assert torch.allclose(exported, expected, atol=1e-5)

    places = {"bundle_root": str(folder), "dataset_dir": str(volumes)}
    workflow = ConfigWorkflow(str(inference), workflow_type="infer", logging_file=False, **places)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_metadata_of_the_copy_is_what_its_workflow_reads(tmp_path: Path) -> None:
    folder = copy_bundle(bundle_folder("essa_ssa"), tmp_path, BundleVariant("mine", {}, WIDTH))
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.yaml"))
    parser.read_meta(str(folder / "configs" / "metadata.json"))
    assert parser["_meta_#name"] == "mine"
    assert parser["_meta_#network_data_format#inputs#image#spatial_shape"] == parser["img_size"]


@pytest.mark.parametrize("bundle", ["essa_ssa", "essa_classification", "essa_segmentation"])
def test_a_copy_for_2d_images_says_so_and_is_one(bundle: str, tmp_path: Path) -> None:
    size, values = [8, 8], FLAT
    if bundle == "essa_segmentation":  # the patches of a UNETR are 16 pixels wide
        size = [32, 32]
        values = {key: value for key, value in FLAT.items() if key != "patch_size"} | {"img_size": size}
    folder = copy_bundle(bundle_folder(bundle), tmp_path, BundleVariant("flat", {"images": "2d"}, values))
    meta, inference = folder / "configs" / "metadata.json", folder / "configs" / "inference.yaml"
    verify_metadata(str(meta), filepath=SCHEMA)
    verify_net_in_out("network_def", meta_file=str(meta), config_file=str(inference), device="cpu")
    metadata = json.loads(meta.read_text(encoding="utf-8"))
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["spatial_shape"], image["modality"]) == (size, "n/a")
    assert metadata["image_classes"].startswith("single channel data; 2-D images")
    assert metadata["description"].endswith("images 2d.")
    parser = ConfigParser()
    parser.read_config(str(inference))
    assert (parser["pattern"], parser["axcodes"]) == ("*.png", None)
    assert "Orientationd" not in inference.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("metadata.json", "[]", "metadata.json: expected a config, which is a mapping, got \\[\\]"),
        ("metadata.json", "{}", "metadata.json, field 'name': expected text"),
        (
            "metadata.json",
            '{"name": "a", "version": "1", "description": "b"}',
            "metadata.json: expected a mapping under network_data_format::inputs::image",
        ),
        ("train.yaml", "3", "train.yaml: expected a config, which is a mapping, got 3"),
        ("method_apla.yaml", "a: [", "method_apla.yaml: expected a config in YAML or JSON"),
    ],
)
def test_a_bundle_with_a_broken_config_is_refused(name: str, text: str, reason: str, tmp_path: Path) -> None:
    source = copy_bundle(bundle_folder("essa_ssa"), tmp_path, BundleVariant("source", {}, WIDTH))
    (source / "configs" / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        copy_bundle(source, tmp_path, BundleVariant("copy"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
