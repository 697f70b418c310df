# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Files of every family at their published width: where each tensor goes, and which network the shapes ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn

from monai_essa.anatomy.key_maps import KEY_MAPS
from monai_essa.weights.alignment import alignments
from monai_essa.weights.families import FAMILIES, Family
from monai_essa.weights.family_files import WeightCheck, check_weights
from monai_essa.weights.file import WeightFile
from monai_essa.weights.fit import Grids, find_grids, fit
from monai_essa.weights.layout import to_monai_layout
from tests.weights.full_width import FOLDED, Shapes, full_width, text_of, unfolded, without_memory

FILES: dict[str, Shapes] = {name: unfolded(tree) for name, tree in json.loads(FOLDED.read_text("utf-8")).items()}
ASTRA = {"spatial_dims": 3, "n_input_channels": 3, "conv1_t_size": [3, 7, 7], "feed_forward": False}
ASTRA |= {"shortcut_type": "B", "bias_downsample": False}
MEDICALNET = ASTRA | {"n_input_channels": 1, "conv1_t_size": [7, 7, 7]}
SWIN = {"spatial_dims": 3, "in_channels": 1, "feature_size": 48, "depths": [2, 2, 2, 2], "num_heads": [3, 6, 12, 24]}
SWIN |= {"window_size": 7, "use_v2": False}
CT_FM = {"spatial_dims": 3, "in_channels": 1, "init_filters": 32, "blocks_down": [1, 2, 2, 4, 4]}
VIT_B = {"spatial_dims": 2, "in_channels": 3, "patch_size": 16, "hidden_size": 768, "mlp_dim": 3072, "num_layers": 12}
VIT_B |= {"num_heads": 12, "qkv_bias": True}
VIT_L = VIT_B | {"hidden_size": 1024, "mlp_dim": 4096, "num_layers": 24, "num_heads": 16}


@dataclass(frozen=True)
class Expected:
    """A network of the catalogue, how many tensors of the file go where, and what is missing of its arguments."""

    network: str
    arguments: dict[str, Any]
    counts: dict[str, int]
    beside: dict[str, Any] = field(default_factory=dict)  # what shapes of an encoder do not tell


SEGMENTS = {"out_channels": 2}
EXPECTED = {
    "swin_unetr_ssl": Expected("SwinUNETR", SWIN, {"fits": 126, "ignored": 8}, SEGMENTS),
    "swin_unetr_dae": Expected("SwinUNETR", SWIN, {"fits": 126, "ignored": 3, "beside": 22}, SEGMENTS),
    "swin_unetr_btcv": Expected("SwinUNETR", SWIN, {"fits": 159}, {"out_channels": 14}),
    "voco B": Expected("SwinUNETR", SWIN | {"use_v2": True}, {"fits": 145}, SEGMENTS),
    "vocomni B": Expected("SwinUNETR", SWIN | {"use_v2": True}, {"fits": 167}, {"out_channels": 21}),
    "suprem swin": Expected("SwinUNETR", SWIN, {"fits": 157}, SEGMENTS),
    "suprem segresnet": Expected(
        "SegResNet", CT_FM | {"init_filters": 16, "blocks_down": [1, 2, 2, 4]}, {"fits": 81, "beside": 2}, SEGMENTS
    ),
    "ct_fm encoder": Expected("SegResNetDS", CT_FM, {"fits": 161}, SEGMENTS),
    "ct_fm segresnet": Expected("SegResNetDS", CT_FM, {"fits": 221}, {"out_channels": 118, "dsdepth": 4}),
    "brainsegfounder": Expected("SwinUNETR", SWIN | {"in_channels": 2}, {"fits": 126}, SEGMENTS),
    "medicalnet 10": Expected("resnet10", MEDICALNET, {"fits": 72}),
    "medicalnet 50": Expected("resnet50", MEDICALNET, {"fits": 318}),
    "merlin": Expected("resnet152", ASTRA, {"fits": 930, "beside": 6}),
    "astra": Expected("resnet152", ASTRA, {"fits": 930}),
    "vista3d": Expected(
        "SegResNetDS", CT_FM | {"init_filters": 48, "norm": "instance"}, {"fits": 111, "beside": 148}, SEGMENTS
    ),
    "monai_mae": Expected(
        "ViT",
        VIT_B | {"spatial_dims": 3, "in_channels": 1, "qkv_bias": False},
        {"fits": 161, "ignored": 61},
        {"img_size": 96},
    ),
    "3dino": Expected(
        "ViT",
        VIT_L | {"spatial_dims": 3, "in_channels": 1},
        {"fits": 293, "absorbed": 48, "ignored": 2},
        {"img_size": 96},
    ),
    "timm B": Expected("ViT", VIT_B, {"fits": 149, "ignored": 3}, {"img_size": 224}),
    "mae B": Expected("ViT", VIT_B, {"fits": 149, "ignored": 1}, {"img_size": 224}),
    "dinov2 B": Expected(
        "ViT", VIT_B | {"patch_size": 14}, {"fits": 149, "absorbed": 24, "ignored": 2}, {"img_size": 518}
    ),
    "retfound": Expected("ViT", VIT_L, {"fits": 293, "ignored": 105}, {"img_size": 224}),
    "rad_dino": Expected(
        "ViT", VIT_B | {"patch_size": 14}, {"fits": 149, "absorbed": 72, "ignored": 2}, {"img_size": 518}
    ),
}


def family(name: str) -> Family:
    """The row of the catalogue."""
    return next(each for each in FAMILIES if each.name == name.partition(" ")[0])


def check_of(name: str, folder: Path) -> WeightCheck:
    """What ``weights check`` says of a file with these shapes, all of whose values are one number on the disk."""
    value, path = torch.zeros(()), folder / (*family(name).published.files, "weights.pt")[0]
    torch.save({key: value.expand(shape) for key, shape in FILES[name].items()}, path)
    return check_weights(path)


def landings(shapes: Shapes, network: nn.Module) -> dict[str, list[str]]:
    """List the keys of a file by where they go, and the tensors of the network's encoder that would stay random."""
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    file = WeightFile("weights.pt", "", tensors)
    alignment = alignments(tensors, network, KEY_MAPS)[0]
    assert not alignment.doubles
    grids, own, key_map = find_grids(network, file, alignment, (None, None)), network.state_dict(), alignment.key_map
    layout = to_monai_layout({name: tensors[key] for name, key in alignment.keys.items()}, key_map, grids)
    found: dict[str, list[str]] = {key: [] for key in ("fits", "absorbed", "ignored", "beside", "refused", "random")}
    for name, key in alignment.keys.items():
        if name in layout.absorbed:
            found["absorbed"].append(key)
        elif name in alignment.places and _fits(name, layout.tensors[name], own[alignment.places[name]], grids):
            found["fits"].append(key)
        elif name not in alignment.places and key_map.why_ignored(name):
            found["ignored"].append(key)
        else:
            found["refused" if name in alignment.file_encoder else "beside"].append(key)
    found["beside"] += sorted(tensors.keys() - set(alignment.keys.values()))
    found["random"] = [n for n in alignment.encoder if n not in alignment.keys and not key_map.why_optional(n)]
    return found


def _fits(name: str, tensor: torch.Tensor, place: torch.Tensor, grids: Grids | None) -> bool:
    fitted = fit(name, tensor, place.shape, grids)
    return fitted.kind == "matched" and fitted.tensor.shape == place.shape


def test_the_stored_shapes_are_those_of_the_published_networks() -> None:
    assert full_width() == FILES
    assert text_of(full_width()) == FOLDED.read_text("utf-8"), "run python -m tests.weights.full_width"


def test_every_family_that_fits_a_network_has_its_shapes() -> None:
    fitting = {each.name for each in FAMILIES if not each.networks[0].startswith("none of MONAI")}
    assert {name.partition(" ")[0] for name in FILES} == fitting
    assert FILES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", FILES)
def test_the_shapes_ask_for_the_network_of_the_catalogue(name: str, tmp_path: Path) -> None:
    expected, check = EXPECTED[name], check_of(name, tmp_path)
    assert (check.constructor.network, check.constructor.arguments) == (expected.network, expected.arguments)
    assert not check.refused and family(name).name in check.alike
    assert check.family == (family(name) if family(name).published.files else None)


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_finds_its_place(name: str) -> None:
    expected = EXPECTED[name]
    found = landings(FILES[name], without_memory(expected.network, **expected.arguments | expected.beside))
    assert not found["refused"] and not found["random"]
    assert {kind: len(keys) for kind, keys in found.items() if keys} == expected.counts
    assert sum(expected.counts.values()) == len(FILES[name])


def test_the_second_segresnet_takes_the_whole_image_encoder_of_vista3d() -> None:
    sizes = {"in_channels": 1, "init_filters": 48, "out_channels": 48, "blocks_down": (1, 2, 2, 4, 4), "dsdepth": 1}
    network = without_memory("SegResNetDS2", norm="instance", **sizes)
    found = landings(FILES["vista3d"], network)
    assert {key.partition(".")[0] for key in found["beside"]} == {"point_head", "class_head"}
    assert not found["refused"] and len(found["fits"]) == len(network.state_dict())
