# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What a bundle takes from a finished run: overlays and values that need not be typed again, and the weights.

The weights are of the network that a config builds; an adapter file can be merged into them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from monai.bundle import ConfigParser

from monai_essa import methods
from monai_essa.adapters.adaptation import merge
from monai_essa.adapters.adapted import adaptation_of
from monai_essa.adapters.file import load_adapter
from monai_essa.adapters.record import read_header
from monai_essa.anatomy import state_with_grid
from monai_essa.anatomy.parts import dead_parameters, part_of
from monai_essa.bundling.folder import check_configs, overlay_names
from monai_essa.engines import setting_fingerprints, shown_settings
from monai_essa.files import write_text_whole, written_whole
from monai_essa.licence import check_permission, keep_origin, kept_origin, licence_text
from monai_essa.outside import check_config_value, shown
from monai_essa.weights import WeightReport, load_weights

__all__ = [
    "finished_record",
    "merge_adapter_file",
    "network_of_config",
    "run_overlays",
    "run_values",
    "save_weights",
    "take_weights",
]

Config = dict[str, Any]
# Settings that name a class, for which an overlay is chosen.
_BY_OVERLAY = {"network_def", "encoder_def", "method", "objective", "intensity_name", "loss"}
# Entries of run.json that identify the network and the images that the weights are for.
_IDENTITY = ("network", "width", "images", "orientation", "size", "labels")


def finished_record(run: Path) -> dict[str, Any]:
    """Read run.json of a finished run.

    Args:
        run: the run folder.

    Returns:
        The record.

    Raises:
        FileNotFoundError: if the folder has no run.json.
        ValueError: if the run is not finished, or run.json is damaged.
    """
    path = run / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the folder of a finished run")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected the JSON record of a run, got {error}; copy it again") from error
    if not isinstance(record, dict) or "status" not in record or not isinstance(record.get("config"), dict):
        raise ValueError(f"{path}: expected the record of a run with 'status' and 'config', got {shown(record)}")
    if record["status"] != "finished":
        raise ValueError(f"{run} holds an unfinished run; start it again with the same command to finish it")
    return record


def run_overlays(bundle: Path, run: Path) -> dict[str, str]:
    """Choose the overlays of a bundle that a run was made with.

    Args:
        bundle: folder of the bundle that made the run.
        run: folder of a finished run.

    Returns:
        The overlay's name for each kind that differs from train.yaml. A custom network or intensity chain has no
        overlay, and a run of an earlier version records only enough to choose the method.

    Raises:
        FileNotFoundError: as :func:`finished_record`.
        ValueError: as :func:`finished_record`.
    """
    settings = _settings(run)
    chosen: dict[str, str] = {}
    size = settings.get("img_size")
    if isinstance(size, list) and len(size) == 2 and "2d" in overlay_names(bundle, "images"):
        chosen["images"] = "2d"
    for key in ("network_def", "encoder_def"):
        if key in settings:
            chosen |= _overlay_of_class(bundle, "network", key, settings[key])
    for kind in ("objective", "loss"):
        if kind in settings:
            chosen |= _overlay_of_class(bundle, kind, kind, settings[kind])
    if "intensity_name" in settings:
        chosen |= _intensity(bundle, chosen, settings["intensity_name"])
    method = _component(_method(run, settings))
    fitting = [name for name, overlay in _overlays(bundle, "method") if _is_part(overlay["method"], method)]
    return {**chosen, "method": fitting[-1]} if fitting else chosen


def run_values(bundle: Path, run: Path) -> dict[str, Any]:
    """Return the values of a run that are keys of a bundle's train.yaml.

    Args:
        bundle: folder of the bundle that made the run.
        run: folder of a finished run.

    Returns:
        The values by key: spacing, patch, labels, sizes of the network, learning rates, and the method. Keys of
        run.json that the bundle does not record are ignored.

    Raises:
        FileNotFoundError: as :func:`finished_record`.
        ValueError: as :func:`finished_record`, or if MONAI would evaluate a value.
    """
    settings, groups = _settings(run), _training(bundle)["record"]["config"].values()
    recorded = {key for group in groups if isinstance(group, Mapping) for key in group}  # no other key of a config
    values = {key: value for key, value in settings.items() if key in recorded and key not in _BY_OVERLAY}
    method = _component(_method(run, settings))
    return values | ({"method": method} if method else {})


def network_of_config(config_files: Sequence[Path], values: Mapping[str, Any]) -> nn.Module:
    """Build the ``network_def`` of a config.

    Args:
        config_files: the configs, merged in order.
        values: values that replace those of the configs, by id.

    Returns:
        The network, with random weights.

    Raises:
        FileNotFoundError: if a config does not exist.
        ValueError: if a file is not a config, or the configs have no ``network_def``.
    """
    check_configs(config_files)
    parser = ConfigParser()
    parser.read_config([str(path) for path in config_files])
    parser.update(dict(values))
    if "network_def" not in parser:
        raise ValueError(f"{config_files[-1]} has no 'network_def'; name the config that builds the network")
    return parser.get_parsed_content("network_def")


def merge_adapter_file(
    network: nn.Module,
    base: Path,
    adapter: Path,
    base_prefix: str | None = None,
    base_grid: Sequence[int] | None = None,
    permission: str | None = None,
) -> tuple[nn.Module, WeightReport]:
    """Load base weights and an adapter, and fold the adapter in.

    Args:
        network: the plain network, as built.
        base: the weight file that the adapter was trained on.
        adapter: the adapter file.
        base_prefix: prefix of the names of the network to take if the weight file holds several; default: none.
        base_grid: patches per axis of the base's position embeddings if the file does not record it; default: none.
        permission: of the base's authors to share modified weights, in words, where its licence asks for one; it is
            kept with the origin of the weights.

    Returns:
        The plain network, and what became of every tensor of the base file.

    Raises:
        FileNotFoundError: if one of the files does not exist.
        ValueError: if the files do not fit, a part of the network is in neither, or the base's licence forbids to share
            modified weights and there is no permission.
    """
    report = load_weights(network, base, prefix=base_prefix, source_grid=base_grid)
    load_adapter(network, adapter)
    _refuse_random_part(network, report, base)
    plain = merge(network)
    origin = kept_origin(network) if report.family else read_header(adapter).record.get("base", report.origin)
    keep_origin(plain, check_permission(origin, permission, f"the merged weights of {adapter.name}"))
    return plain, report


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a state dict under a temporary name, then rename it.

    Args:
        network: a plain network.
        path: a new file; a missing folder is made.

    Raises:
        FileExistsError: if the file exists; it is left as it is.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; expected a new file: give another name or move the old one away")
    path.parent.mkdir(parents=True, exist_ok=True)
    # An open file: of a path, torch.save would write the name, which is temporary, into the archive.
    with written_whole(path) as temporary, temporary.open("wb") as file:
        torch.save(state_with_grid(network, network.state_dict()), file)


def take_weights(bundle: Path, run: Path, permission: str | None = None) -> None:
    """Write models/model.pt, for the network of inference.yaml, copy the adapter file beside it, and say the licence.

    The licence of the base that the weights derive from goes into LICENSE and docs/data_license.txt of the bundle.

    Args:
        bundle: the bundle's folder.
        run: folder of a finished run.
        permission: of the base's authors to share modified weights, in words, where its licence asks for one.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ValueError: if the run is not finished, was made with another network, preprocessing or label set, or the base's
            licence forbids to share modified weights and there is no permission.
    """
    _check_same_configuration(bundle / "configs" / "train.yaml", run)
    network = network_of_config([bundle / "configs" / "inference.yaml"], {})
    report = load_weights(network, run / "model.pt")
    inexact = [*report.inflated, *report.interpolated, *report.missing]
    if inexact:
        raise ValueError(
            f"{run / 'model.pt'} does not fit the bundle's network: '{inexact[0].name}' {inexact[0].reason}; choose "
            "the network and the values of the run"
        )
    origin = check_permission(_origin_of_run(network, run), permission, f"the bundle with the weights of {run}")
    keep_origin(network, origin)
    save_weights(network, bundle / "models" / "model.pt")
    if origin is not None:
        _say_licence(bundle, origin)
    if (run / "adapter.safetensors").is_file():
        shutil.copy2(run / "adapter.safetensors", bundle / "models")


def _origin_of_run(network: nn.Module, run: Path) -> dict[str, Any] | None:
    """Return the origin that model.pt states, or else the adapter file beside it."""
    origin, adapter = kept_origin(network), run / "adapter.safetensors"
    if (origin is None or origin["family"] is None) and adapter.is_file():
        return read_header(adapter).record.get("base", origin)
    return origin


def _say_licence(bundle: Path, origin: Mapping[str, Any]) -> None:
    """Put the licence of the weights before that of the configs, and beside that of the data."""
    said = licence_text(origin)
    for name, head in (("LICENSE", "models/"), ("docs/data_license.txt", "The weights in models/")):
        path = bundle / name
        rest = path.read_text(encoding="utf-8") if path.is_file() else ""
        begin = f"{'Weights in ' if name == 'LICENSE' else ''}{head}\n\n{said}\n"
        own = "Configs and texts of this bundle\n\n" if name == "LICENSE" and rest else ""
        path.parent.mkdir(exist_ok=True)
        write_text_whole(path, f"{begin}{own}{rest}")


def _settings(run: Path) -> dict[str, Any]:
    where, settings = f"{run / 'run.json'}, 'settings'", finished_record(run).get("settings", {})
    if not isinstance(settings, dict):
        raise ValueError(f"{where}: expected values by name, got {shown(settings)}; copy the run folder again")
    checked: dict[str, Any] = check_config_value(settings, where)
    return checked


def _training(bundle: Path) -> Config:
    return ConfigParser.load_config_file(bundle / "configs" / "train.yaml")


def _overlays(bundle: Path, kind: str) -> Iterator[tuple[str, Config]]:
    for name in overlay_names(bundle, kind):
        yield name, ConfigParser.load_config_file(bundle / "configs" / f"{kind}_{name}.yaml")


def _class_of(config: Mapping[str, Any], key: str) -> str:
    component = config.get(key)
    return str(component.get("_target_", "")).rpartition(".")[2] if isinstance(component, Mapping) else ""


def _overlay_of_class(bundle: Path, kind: str, key: str, wanted: str) -> dict[str, str]:
    if wanted == _class_of(_training(bundle), key):
        return {}
    found = [name for name, overlay in _overlays(bundle, kind) if _class_of(overlay, key) == wanted]
    return {kind: found[0]} if found else {}


def _intensity(bundle: Path, chosen: Mapping[str, str], wanted: str) -> dict[str, str]:
    images = dict(_overlays(bundle, "images")).get(chosen.get("images", ""), {})
    if wanted == (_training(bundle) | images).get("intensity_name"):
        return {}
    found = [name for name, overlay in _overlays(bundle, "intensity") if overlay.get("intensity_name") == wanted]
    return {"intensity": found[0]} if found else {}


def _is_part(overlay: Mapping[str, Any], method: Mapping[str, Any]) -> bool:
    return bool(method) and overlay.items() <= method.items()


def _method(run: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the class and values of the method, from the adapter file if there is one, since it may have set them."""
    adapter = run / "adapter.safetensors"
    entries = read_header(adapter).record["methods"] if adapter.is_file() else []
    if len(entries) == 1:
        return {"class": entries[0]["name"], **entries[0]["values"]}
    return settings.get("method", {}) if not entries and isinstance(settings.get("method"), Mapping) else {}


def _component(method: Mapping[str, Any]) -> Config:
    """Return a method of this library as a config component; {} for other methods, which a config cannot name."""
    name = method.get("class")
    if name not in methods.__all__ or name == "PeftLibrary":
        return {}
    values = {key: value for key, value in method.items() if key != "class"}
    return {"_target_": f"monai_essa.methods.{name}"} | check_config_value(values, f"method {name}")


def _refuse_random_part(network: nn.Module, report: WeightReport, base: Path) -> None:
    known = report.loaded | adaptation_of(network).changing | dead_parameters(network)
    for name, _ in network.named_parameters():
        if name not in known:
            raise ValueError(
                f"'{name}' of the {part_of(network, name)} is neither in {base} nor in the adapter: it would be "
                "random; use weights that hold it, or the config of the network that was adapted"
            )


def _check_same_configuration(train: Path, run: Path) -> None:
    record = finished_record(run)
    parser = ConfigParser()
    parser.read_config(str(train))
    for name in (name for name in _IDENTITY if name in record["config"]):
        group = {name: parser.get_parsed_content(f"record#config#{name}")}
        if setting_fingerprints(group)[name] != record["config"][name]:
            settings = shown_settings(group)
            raise ValueError(
                f"{run} was made with another {', '.join(settings)} than {list(settings.values())}: set what the run "
                "had by --network, --intensity, --labels and --args"
            )
