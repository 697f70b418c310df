# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Copy a bundle as a variant with its own name, network, values, weights and metadata."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser

from monai_essa.bundling.finished_run import network_of_config, run_overlays, run_values, take_weights
from monai_essa.bundling.folder import OVERLAYS, check_configs, drop_marks, overlay_names
from monai_essa.bundling.yaml_text import config_entries, entry_text, replace_entries
from monai_essa.data.lists.fields import class_ids
from monai_essa.data.lists.read import read_datalist
from monai_essa.files import folder_written_whole
from monai_essa.outside import NAME, Text

__all__ = ["BundleVariant", "copy_bundle", "listed_labels", "write_documents", "write_metadata", "write_variant"]

_MODALITIES = {"ct": "CT", "mr": "MR", "us": "US", "xray": "DX", "fundus": "OP", "2d": "n/a"}
_TEXT = Text(r"(?s).*", longest=100_000)
_NO_WEIGHTS = " The bundle holds no weights: a site trains its own."  # how the shipped descriptions end
_PERFORMANCE = re.compile(r"(## \*\*Performance\*\*\n).*?(?=\n## |\Z)", re.DOTALL)
_UNSCORED = "The run that the weights come from states no score here; `evaluate.yaml` computes that of a run."
# What the documents of a bundle without weights say, and what those of a bundle with weights say instead.
_DOCUMENTS = {
    "docs/README.md": (
        ("The bundle holds no weights. ", "The weights in `models/` were trained on the scans of one site. "),
    ),
    "docs/data_license.txt": (
        (
            "This bundle holds no data and no weights that were trained on data.",
            "This bundle holds no data. Its weights were trained on the scans of a site; whoever shares them sees to\n"
            "what the site's licence or consent says about that.",
        ),
        ("with this bundle may inherit", "may inherit"),
    ),
}


@dataclass(frozen=True)
class BundleVariant:
    """Say how a copy differs from its bundle.

    Args:
        name: name of the new bundle: letters, digits, blanks and ``._+()-``, never a path.
        overlays: the chosen name for each kind of :data:`monai_essa.bundling.folder.OVERLAYS`.
        values: values that replace those of the configs, by top-level key of train.yaml.
        run: folder of a finished run. Its model.pt becomes the bundle's, and its network, method, preprocessing and
            labels become the defaults where ``overlays`` and ``values`` set nothing else. A segmentation bundle then
            continues training from it, as MONAI Label expects, unless another start is chosen. Default: none.
        permission: who allowed to share the modified weights of the run, and when: needed where the licence of their
            base has no derivatives (ND), and written into the bundle's LICENSE. Default: none.
        performance: of the weights of the run, in Markdown, for the README. Default: nothing is known.
    """

    name: str
    overlays: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None
    permission: str | None = None
    performance: str = ""


def copy_bundle(source: Path, destination: Path, variant: BundleVariant) -> Path:
    """Copy a bundle and make a variant its default; the folder appears under its name only when complete.

    Args:
        source: the bundle's folder.
        destination: the folder in which the new one is made.
        variant: how the copy differs.

    Returns:
        The new folder.

    Raises:
        FileExistsError: if a file or folder of that name exists.
        ValueError: if the name is not a plain one, a config is not a mapping, the bundle has no such overlay or key,
            the run was made with another configuration, or the licence of its base asks for a permission.
    """
    target = destination / Text(NAME, longest=100).check(variant.name, "--name")
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists; expected a new folder: give another --name or move the old one away")
    check_configs([path for path in (source / "configs").iterdir() if path.suffix in (".yaml", ".json")])
    if variant.run is not None:
        variant = _with_run(source, variant, variant.run)
    with folder_written_whole(target) as partial:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__", "*.pt", "*.safetensors"))
        drop_marks(partial / "configs")
        write_variant(partial, _with_start(source, variant), variant.values)
        if variant.run is not None:
            write_documents(partial, variant.name, variant.performance)
            take_weights(partial, variant.run, variant.permission)
        write_metadata(partial, variant.name, variant.overlays)
    return target


def listed_labels(path: Path) -> dict[str, int]:
    """Read the label names of a data list, for the ``labels`` of a variant.

    Args:
        path: a JSON file with ``labels``.

    Returns:
        The id of each label by its name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the list has no labels, or their ids are not 0, 1, 2 and so on.
    """
    names = class_ids(read_datalist(path).get("labels"), f"{path}, field 'labels'")
    if not names:
        raise ValueError(f'{path}: expected \'labels\' such as {{"0": "background", "1": "spleen"}}; add them')
    if list(names.values()) != list(range(len(names))):
        raise ValueError(f"{path}: expected label ids 0, 1, 2 ... without a gap, got {list(names.values())}; renumber")
    return names


def write_variant(bundle: Path, overlays: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Make overlays and values the defaults of a bundle's train.yaml and inference.yaml.

    The network overlays are removed, since a bundle is one network with one data format.

    Args:
        bundle: the folder of a copied bundle, which is changed.
        overlays: the chosen name for each kind of :data:`~monai_essa.bundling.folder.OVERLAYS`.
        values: values that replace those of the configs, by top-level key of train.yaml.

    Raises:
        ValueError: if the bundle has no such overlay or key.
    """
    configs = bundle / "configs"
    train = (configs / "train.yaml").read_text(encoding="utf-8")
    inference = (configs / "inference.yaml").read_text(encoding="utf-8")
    runs_what_is_trained = _network(train) == _network(inference)
    for kind in (kind for kind in OVERLAYS if kind in overlays):
        chosen = config_entries(_overlay(bundle, kind, overlays[kind]))
        train = replace_entries(train, chosen)
        if kind == "network" and not runs_what_is_trained:
            inference = replace_entries(inference, _inference_overlay(bundle, overlays[kind]))
        elif kind != "start":  # it sets where training begins and where it writes
            inference = replace_entries(inference, _for_inference(chosen, inference))
    _check_keys(values, config_entries(train))
    entries = {key: entry_text(key, value) for key, value in values.items()}
    train = replace_entries(train, entries)
    inference = replace_entries(inference, _for_inference(entries, inference))

    for path in (*configs.glob("network_*.yaml"), *configs.glob("inference_*.yaml")):
        path.unlink()
    (configs / "train.yaml").write_text(train.replace("network_*.yaml, ", "", 1), encoding="utf-8")
    (configs / "inference.yaml").write_text(inference, encoding="utf-8")


def write_metadata(bundle: Path, name: str, overlays: Mapping[str, str]) -> None:
    """Set the name, description and data format of a bundle to match its inference.yaml and its weights.

    Args:
        bundle: folder of a variant of a bundle.
        name: name of the variant.
        overlays: the chosen name for each kind, for the description.

    Raises:
        ValueError: if inference.yaml has no ``network_def``, the network refuses the bundle's ``img_size``, or the
            metadata lack a field that is to be changed.
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


def write_documents(bundle: Path, name: str, performance: str = "") -> None:
    """Let the README and the notice about data speak of a bundle with weights.

    Args:
        bundle: folder of a copied bundle; a document that it lacks is passed over.
        name: of the copy, the title of its README.
        performance: of the weights, in Markdown; default: that nothing is known.
    """
    for document, sentences in _DOCUMENTS.items():
        path = bundle / document
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        for without, with_weights in sentences:
            text = text.replace(without, with_weights)
        if path.name == "README.md":
            text = re.sub(r"\A# .*", lambda _: f"# {name}", text)
            text = _PERFORMANCE.sub(lambda found: f"{found[1]}{performance.strip() or _UNSCORED}\n", text)
        path.write_text(text, encoding="utf-8")


def _with_run(source: Path, variant: BundleVariant, run: Path) -> BundleVariant:
    """Complete the caller's choices by those of the run; an overlay that the caller chose wins with all of its keys."""
    chosen = {key for kind, name in variant.overlays.items() for key in config_entries(_overlay(source, kind, name))}
    values = {key: value for key, value in run_values(source, run).items() if key not in chosen}
    overlays = {**run_overlays(source, run), **variant.overlays}
    return replace(variant, overlays=overlays, values={**values, **variant.values})


def _with_start(source: Path, variant: BundleVariant) -> Mapping[str, str]:
    """Return the overlays; a bundle that gets weights starts from them unless another start is chosen."""
    if variant.run is None or "start" in variant.values or "bundle" not in overlay_names(source, "start"):
        return variant.overlays
    return {"start": "bundle"} | dict(variant.overlays)


def _overlay(bundle: Path, kind: str, name: str) -> str:
    names = overlay_names(bundle, kind)
    if name not in names:
        raise ValueError(f"--{kind} {name}: the bundle has {', '.join(names) or f'no choice of {kind}'}")
    return (bundle / "configs" / f"{kind}_{name}.yaml").read_text(encoding="utf-8")


def _inference_overlay(bundle: Path, network: str) -> dict[str, str]:
    """Return the entries for inference by the encoder alone; {} for a network whose encoder is the default (UNETR)."""
    path = bundle / "configs" / f"inference_{network}.yaml"
    return config_entries(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _for_inference(entries: Mapping[str, str], inference: str) -> dict[str, str]:
    """Select the entries that inference.yaml has too, except for components of this library, which it never names."""
    has = config_entries(inference)
    return {key: text for key, text in entries.items() if key in has and "monai_essa" not in text}


def _network(text: str) -> Any:
    return yaml.safe_load(config_entries(text)["network_def"])


def _check_keys(values: Mapping[str, Any], known: Mapping[str, str]) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; give a top-level key of train.yaml"
            raise ValueError(f"--args {key}: train.yaml has no such key{hint}")


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
    # On the device "meta", only shapes are computed.
    network = network_of_config([inference], {}).to("meta").eval()
    with torch.no_grad():
        output = network(torch.empty(shape, device="meta"))
    pred["num_channels"], pred["spatial_shape"] = output.shape[1], list(output.shape[2:])


def _set_image(metadata: dict[str, Any], overlay: Path) -> None:
    """Describe the image by the overlay's first line, such as "# CT, soft tissue: Hounsfield units ... For ..."."""
    comment = overlay.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(" For ")[0]
    image = metadata["network_data_format"]["inputs"]["image"]
    channels = "single" if image["num_channels"] == 1 else str(image["num_channels"])
    metadata["image_classes"] = f"{channels} channel data; {comment.rstrip('.')}"
    image["modality"] = _MODALITIES.get(overlay.stem.split("_")[1], image["modality"])


def _set_labels(metadata: dict[str, Any], labels: Mapping[str, int]) -> None:
    names = class_ids(labels, "the label names of the bundle")  # MONAI reads this file into a ConfigParser too
    channel_def = {str(number): name for name, number in names.items()}
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = channel_def
    metadata["label_classes"] = "single channel data, " + ", ".join(
        f"{key} is {name}" for key, name in channel_def.items()
    )
    metadata["pred_classes"] = "one channel of logits for each label, " + ", ".join(
        f"channel {key} is {name}" for key, name in channel_def.items()
    )
