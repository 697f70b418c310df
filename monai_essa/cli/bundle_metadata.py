# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Makes metadata.json of a bundle say what its configs are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_essa.cli.adapter_merge import network_of_config
from monai_essa.cli.bundle_config import check_configs
from monai_essa.data.datalist_names import class_ids
from monai_essa.outside import Text

__all__ = ["write_metadata"]

_MODALITIES = {"ct": "CT", "mr": "MR", "us": "US", "2d": "n/a"}
_TEXT = Text(r"(?s).*", longest=100_000)
_NO_WEIGHTS = " The bundle holds no weights: a site trains its own."  # how the shipped descriptions end


def write_metadata(bundle: Path, name: str, overlays: Mapping[str, str]) -> None:
    """Set the name, the description and the data format of a bundle after its inference.yaml and its weights.

    Args:
        bundle: folder of a variant of a bundle.
        name: of the variant.
        overlays: the chosen name for each kind, for the description.

    Raises:
        ValueError: if inference.yaml has no ``network_def``, the network refuses the bundle's ``img_size``, or the
            metadata lack a field that changes.
    """
    path = bundle / "configs" / "metadata.json"
    metadata = _read(path)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))

    if (bundle / "models" / "model.pt").is_file():
        metadata["description"] = metadata["description"].removesuffix(_NO_WEIGHTS)
    chosen = ", ".join(f"{kind} {overlay}" for kind, overlay in overlays.items())
    metadata["description"] += f" This is a variant of {metadata['name']} {metadata['version']}"
    metadata["description"] += f": {chosen}." if chosen else "."
    metadata["name"] = name
    data_format = metadata["network_data_format"]
    _set_input(data_format["inputs"]["image"], parser)
    _set_output(data_format["outputs"]["pred"], parser, bundle / "configs" / "inference.yaml")
    for kind in ("images", "intensity"):
        if kind in overlays:
            _set_image(metadata, bundle / "configs" / f"{kind}_{overlays[kind]}.yaml")
    if "labels" in parser:
        _set_labels(metadata, parser.get_parsed_content("labels"))
    path.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    check_configs(path)
    metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("name", "version", "description"):
        _TEXT.check(metadata.get(name), f"{path}, field '{name}'")
    for place in ("inputs", "image"), ("outputs", "pred"):
        value: Any = metadata
        for part in ("network_data_format", *place):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, dict):
            raise ValueError(f"{path}: expected a mapping under network_data_format::{'::'.join(place)}; add it")
    return metadata


def _set_input(image: dict[str, Any], parser: ConfigParser) -> None:
    image["num_channels"] = parser.get_parsed_content("in_channels")
    image["spatial_shape"] = list(parser.get_parsed_content("img_size"))
    if image["num_channels"] != len(image["channel_def"]):
        image["channel_def"] = {str(number): f"image {number}" for number in range(image["num_channels"])}


def _set_output(pred: dict[str, Any], parser: ConfigParser, inference: Path) -> None:
    shape = (1, parser.get_parsed_content("in_channels"), *parser.get_parsed_content("img_size"))
    # On the device "meta" nothing but the shapes is computed.
    network = network_of_config([inference], {}).to("meta").eval()
    with torch.no_grad():
        output = network(torch.empty(shape, device="meta"))
    pred["num_channels"], pred["spatial_shape"] = output.shape[1], list(output.shape[2:])


def _set_image(metadata: dict[str, Any], overlay: Path) -> None:
    """The overlay's first line says what it does: "# CT, soft tissue: Hounsfield units ... For training and ..."."""
    comment = overlay.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(" For ")[0]
    image = metadata["network_data_format"]["inputs"]["image"]
    channels = "single" if image["num_channels"] == 1 else str(image["num_channels"])
    metadata["image_classes"] = f"{channels} channel data; {comment.rstrip('.')}"
    image["modality"] = _MODALITIES.get(overlay.stem.split("_")[1], image["modality"])


def _set_labels(metadata: dict[str, Any], labels: Mapping[str, int]) -> None:
    names = class_ids(labels, "the label names of the bundle")  # MONAI reads this file into a ConfigParser, too
    channel_def = {str(number): name for name, number in names.items()}
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = channel_def
    metadata["label_classes"] = "single channel data, " + ", ".join(
        f"{key} is {name}" for key, name in channel_def.items()
    )
    metadata["pred_classes"] = "one channel of logits for each label, " + ", ".join(
        f"channel {key} is {name}" for key, name in channel_def.items()
    )
