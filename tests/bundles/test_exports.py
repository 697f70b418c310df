# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The plain network of every bundle and variant, in 2-D and 3-D, leaves PyTorch with the same function.

essa_tpp has the inference.yaml of essa_ssa (test_generated.py), so that it is not repeated here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
TINY: dict[str, Any] = {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "num_layers": 2, "feature_size": 8}
SIZES = {"swin_unetr": (64, 12), "resnet": (64, 4)}  # pixels a side, feature_size
# Each network and each bundle once; all of them take minutes, since a Swin transformer of 3-D windows is a long graph.
CHOSEN = {("essa_ssa", "resnet", 2), ("essa_segmentation", "unetr", 3), ("essa_segmentation", "swin_unetr", 2)}
QUICK = {("essa_ssa", "vit", 2), ("essa_segmentation", "segresnet", 2), ("essa_classification", "vit", 3)}
NETWORKS = {
    "essa_ssa": ("vit", "segresnet", "swin_unetr", "resnet"),
    "essa_segmentation": ("unetr", "segresnet", "swin_unetr"),
    "essa_classification": ("vit", "segresnet", "swin_unetr", "resnet"),
}
VARIANTS = [(bundle, network, dims) for bundle, names in NETWORKS.items() for network in names for dims in (3, 2)]

Variant = tuple[str, str, int]


def marked(fast: set[Variant], variants: list[Variant] = VARIANTS) -> list[Any]:
    """Each variant; those that are not fast belong to the full run."""
    return [
        pytest.param(variant, id="-".join(map(str, variant)), marks=[] if variant in fast else pytest.mark.full)
        for variant in variants
    ]


def files_and_values(variant: Variant) -> tuple[list[str], dict[str, Any]]:
    bundle, network, dims = variant
    kind = "network" if bundle == "essa_segmentation" else "inference"
    own = f"{kind}_{network}.yaml"
    names = ["inference.yaml", *(["images_2d.yaml"] if dims == 2 else [])]
    names += [own] if (BUNDLES / bundle / "configs" / own).exists() else []
    side, width = SIZES.get(network, (32, 8))
    values = TINY | {"img_size": [side] * dims, "feature_size": width, "patch_size": 16}
    return [str(BUNDLES / bundle / "configs" / name) for name in names], values


@pytest.fixture
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[torch.nn.Module, torch.Tensor, dict[str, Any]]:
    """The network of a variant, an image, and what monai.bundle's commands take; its weights are in a file."""
    files, values = files_and_values(request.param)
    parser = ConfigParser()
    parser.read_config(files)
    parser.update(values)
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    image = torch.randn(1, 1, *values["img_size"])
    meta = str(BUNDLES / request.param[0] / "configs" / "metadata.json")
    command = {"net_id": "network_def", "config_file": files, "meta_file": meta, "input_shape": list(image.shape)}
    return network, image, command | values | {"ckpt_file": str(tmp_path / "model.pt")}


@pytest.mark.parametrize("plain", marked(CHOSEN | QUICK), indirect=True)
def test_torch_export_keeps_the_function(plain) -> None:
    network, image, _ = plain
    with torch.no_grad():
        exported = torch.export.export(network, (image,)).module()
        torch.testing.assert_close(exported(image), network(image))


# TorchScript compiles neither SwinUNETR nor the hooks that join the parts of the encoders.
SCRIPTABLE = [variant for variant in VARIANTS if variant[0] == "essa_segmentation" and variant[1] != "swin_unetr"]


@pytest.mark.parametrize("plain", marked(QUICK, SCRIPTABLE), indirect=True)
def test_a_segmentation_network_is_exported_as_a_script(plain, tmp_path: Path) -> None:
    network, image, command = plain
    values = {key: value for key, value in command.items() if key != "input_shape"}
    ckpt_export(filepath=str(tmp_path / "model.ts"), **values)
    loaded = torch.jit.load(tmp_path / "model.ts")
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), network(image))
        larger = torch.cat([image, image])  # a script keeps the network's control flow: any batch
        assert loaded(larger).shape[0] == 2


# Beside, the deepest graph: windows that move, and hooks that join the encoder with its head.
AS_ONNX = [*sorted(QUICK), ("essa_classification", "swin_unetr", 2)]


@pytest.mark.parametrize("plain", marked(QUICK, AS_ONNX), indirect=True)
def test_onnx_export_keeps_the_function(plain, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: the extra [export]")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: the extra [export]")
    from onnx.reference import ReferenceEvaluator

    network, image, command = plain
    onnx_export(filepath=str(tmp_path / "model.onnx"), use_trace=True, **command)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    (name,) = (value.name for value in model.graph.input)
    (output,) = ReferenceEvaluator(model).run(None, {name: image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(output, network(image).numpy(), rtol=1e-3, atol=1e-4)
