# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Build the network of a bundle's config, and write its weights: merged with an adapter, or taken from a run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from monai.bundle import ConfigParser

from monai_essa.adapters.adaptation import merge
from monai_essa.adapters.adapted import adaptation_of
from monai_essa.adapters.file import load_adapter
from monai_essa.adapters.record import read_header
from monai_essa.anatomy import state_with_grid
from monai_essa.anatomy.parts import dead_parameters, part_of
from monai_essa.bundling.finished_run import finished_record
from monai_essa.bundling.folder import check_configs
from monai_essa.engines import setting_fingerprints, shown_settings
from monai_essa.files import write_text_whole, written_whole
from monai_essa.licence import check_permission, keep_origin, kept_origin, licence_text
from monai_essa.weights import WeightReport, load_weights

__all__ = ["merge_adapter_file", "network_of_config", "save_weights", "take_weights"]

# Entries of run.json that identify the network and the images that the weights are for.
_IDENTITY = ("network", "width", "images", "labels")


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


def _refuse_random_part(network: nn.Module, report: WeightReport, base: Path) -> None:
    known = report.loaded | adaptation_of(network).changing | dead_parameters(network)
    for name, _ in network.named_parameters():
        if name not in known:
            raise ValueError(
                f"'{name}' of the {part_of(network, name)} is neither in {base} nor in the adapter: it would be "
                f"random; give weights that hold it, or the config of the network that was adapted"
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
                f"{run} was made with another {', '.join(settings)} than {list(settings.values())}: give what the run "
                "had by --network, --intensity, --labels and --args"
            )
