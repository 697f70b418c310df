# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The commands of monai.bundle on the bundles, and what a published bundle does without monai_essa."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

from monai_essa import __version__

RunBundle = Callable[..., ConfigWorkflow]
ROOT = Path(__file__).resolve().parents[2]
BUNDLES = ROOT / "bundles"
NAMES = ("essa_ssa", "essa_tpp", "essa_segmentation", "essa_classification")
SUPERVISED = ("essa_segmentation", "essa_classification")
TINY = {"img_size": [32, 32, 32], "hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "num_layers": 12, "feature_size": 8}
FULL = {"_target_": "monai_essa.methods.FullTuning"}
SHAPE = "_meta_#network_data_format#inputs#image#spatial_shape"
CHANNELS = "_meta_#network_data_format#outputs#pred#num_channels"

WITHOUT_MONAI_ESSA = """
import json, sys
sys.modules["monai_essa"] = None
import torch
from monai.bundle import run
from monai.networks.nets import UNETR
try:
    import monai_essa
except ImportError:
    pass
else:
    raise SystemExit("monai_essa is there")
values = json.loads(sys.argv[1])
network = UNETR(1, 3, (32, 32, 32), feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4, qkv_bias=True)
network.load_state_dict(torch.load(values["checkpoint"], weights_only=True), strict=True)
run(**values)
"""


def metadata(bundle: str) -> dict[str, Any]:
    return json.loads((BUNDLES / bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def config(bundle: str, name: str) -> str:
    return str(BUNDLES / bundle / "configs" / name)


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "ignore", *arguments], cwd=cwd, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("files", [["train.yaml"], ["inference.yaml"]], ids=["train", "inference"])
@pytest.mark.parametrize("network", [None, "swin_unetr"])
@pytest.mark.parametrize("bundle", NAMES)
def test_every_property_of_a_bundle_is_there(
    bundle: str,
    network: str | None,
    files: list[str],
    volumes: Path,
    classes: Path,
    open_bundle: RunBundle,
    tmp_path: Path,
) -> None:
    sizes: dict[str, Any] = {}
    if network is not None:
        encodes = files == ["inference.yaml"] and bundle != "essa_segmentation"
        own = f"{'inference' if encodes else 'network'}_{network}.yaml"
        files, sizes = [*files, own], {"img_size": [64, 64, 64], "feature_size": 12}
    start: dict[str, Any] = {"method": FULL} if files[0] == "train.yaml" else {}
    start |= {"start": "random"} if start and bundle in SUPERVISED else {}
    start |= {"datalist": classes} if start and bundle == "essa_classification" else {}
    workflow = open_bundle(bundle, *files, dataset_dir=volumes, output_dir=tmp_path, **sizes, **start)
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("bundle", NAMES)
def test_the_metadata_fits_the_schema(bundle: str) -> None:
    """MONAI takes a schema file that exists instead of its own, a download; ours asks for more."""
    verify_metadata(config(bundle, "metadata.json"), filepath=Path(__file__).with_name("metadata_schema.json"))


@pytest.mark.parametrize("bundle", NAMES)
def test_the_metadata_names_the_versions_of_ci_and_of_this_package(bundle: str) -> None:
    pins = dict(
        line.partition(";")[0].strip().split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    named = metadata(bundle)
    packages = named["required_packages_version"]
    assert packages.pop("monai-essa") == __version__
    packages |= {"monai": named["monai_version"], "torch": named["pytorch_version"], "numpy": named["numpy_version"]}
    assert {name: pins[name] for name in packages} == packages


@pytest.mark.parametrize("bundle", NAMES)
def test_the_network_of_inference_has_the_format_that_the_metadata_names(bundle: str) -> None:
    parser = ConfigParser()
    parser.read_config(config(bundle, "inference.yaml"))
    form = metadata(bundle)["network_data_format"]
    image, pred = form["inputs"]["image"], form["outputs"]["pred"]
    with torch.device("meta"), torch.no_grad():  # shapes only: the published size has 90 million parameters
        network = parser.get_parsed_content("network_def").eval()
        output = network(torch.zeros(1, image["num_channels"], *image["spatial_shape"]))
    assert output.shape == (1, pred["num_channels"], *pred["spatial_shape"])
    if bundle in SUPERVISED:
        labels = parser.get_parsed_content("labels")
        assert pred["channel_def"] == {str(number): name for name, number in labels.items()}


@pytest.mark.parametrize("bundle", NAMES)
def test_verify_net_in_out_accepts_the_tiny_network(bundle: str) -> None:
    channels = 2 if bundle in SUPERVISED else 48
    override = TINY | {SHAPE: TINY["img_size"], CHANNELS: channels}
    verify_net_in_out(
        "network_def", config(bundle, "metadata.json"), config(bundle, "inference.yaml"), device="cpu", **override
    )


@pytest.mark.parametrize(
    ("bundle", "overlays", "size"),
    [
        ("essa_ssa", [], 32),
        ("essa_tpp", [], 32),
        ("essa_segmentation", [], 32),
        ("essa_classification", [], 32),
        ("essa_classification", ["inference_segresnet.yaml"], 32),
        pytest.param("essa_ssa", ["inference_swin_unetr.yaml"], 64, marks=pytest.mark.full),
        pytest.param("essa_segmentation", ["network_swin_unetr.yaml"], 64, marks=pytest.mark.full),
        pytest.param("essa_classification", ["inference_swin_unetr.yaml"], 64, marks=pytest.mark.full),
    ],
)
def test_a_plain_checkpoint_is_exported_as_a_trace(bundle: str, overlays: list[str], size: int, tmp_path: Path) -> None:
    files = [config(bundle, name) for name in ("inference.yaml", *overlays)]
    values = TINY | {"img_size": [size] * 3, "feature_size": 24 if overlays else 8}
    parser = ConfigParser()
    parser.read_config(files)
    parser.update(values)
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        config_file=files,
        meta_file=config(bundle, "metadata.json"),
        use_trace=True,
        input_shape=[1, 1, size, size, size],
        **values,
    )
    image = torch.randn(1, 1, size, size, size)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), network(image))


@pytest.mark.slow  # a process of its own: this one has imported monai_essa
def test_inference_runs_in_a_python_without_monai_essa(stages, volumes: Path, tmp_path: Path) -> None:
    values = {
        "config_file": config("essa_segmentation", "inference.yaml"),
        "checkpoint": str(stages.segmented / "model.pt"),
        "dataset_dir": str(volumes),
        "pattern": "image_00*",
        "output_dir": str(tmp_path / "labels"),
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        **TINY,
    }
    done = python("-c", WITHOUT_MONAI_ESSA, json.dumps(values), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "labels" / "image_00_seg.nii.gz").exists()


@pytest.mark.slow  # a process of its own: the one real `python -m monai.bundle run` that trains
def test_a_site_file_runs_from_another_folder(volumes: Path, tmp_path: Path) -> None:
    site = {"config_file": [config("essa_ssa", "train.yaml"), config("essa_ssa", "method_full.yaml")]}
    values = {"dataset_dir": str(volumes), "max_epochs": 1, "samples_per_epoch": 2, "train#handlers#0#every": 1, **TINY}
    (tmp_path / "my_site.yaml").write_text(yaml.safe_dump(site | values), encoding="utf-8")
    done = python("-m", "monai.bundle", "run", "--args_file", "my_site.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "essa_ssa" / "model.pt").exists()
    record = (tmp_path / "runs" / "essa_ssa" / "run.json").read_text(encoding="utf-8")
    assert str(volumes) not in record and str(tmp_path) not in record
