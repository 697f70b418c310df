# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""A plain network out of a bundle's definition, base weights and an adapter file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from monai.bundle import ConfigParser

from monai_essa.adaptation import adaptation_of, merge
from monai_essa.adapter_file import load_adapter
from monai_essa.cli.bundle_config import check_configs
from monai_essa.files import written_whole
from monai_essa.network_parts import dead_parameters, part_of
from monai_essa.networks import state_with_grid
from monai_essa.weights import WeightReport, load_weights

__all__ = ["merge_adapter_file", "network_of_config", "save_weights"]


def network_of_config(config_files: Sequence[Path], values: Mapping[str, Any]) -> nn.Module:
    """Build what a config calls ``network_def``.

    Args:
        config_files: merged in order.
        values: over those of the configs, by id.

    Returns:
        The network, with random weights.

    Raises:
        FileNotFoundError: if a config does not exist.
        ValueError: if one is no config, or the configs have no ``network_def``.
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
) -> tuple[nn.Module, WeightReport]:
    """Load base weights and an adapter, and fold the adapter in.

    Args:
        network: plain, as built.
        base: the weight file that the adapter was trained on.
        adapter: the adapter file.
        base_prefix: of the names of the network to take, where the weight file holds several.
        base_grid: patches per axis that the base's position embeddings are for, where the file does not say it.

    Returns:
        The plain network, and what became of every tensor of the base file.

    Raises:
        FileNotFoundError: if one of the files does not exist.
        ValueError: if they do not fit, or a part of the network is in neither.
    """
    report = load_weights(network, base, prefix=base_prefix, source_grid=base_grid)
    load_adapter(network, adapter)
    _refuse_random_part(network, report, base)
    return merge(network), report


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a state dict under a temporary name, then rename it.

    Args:
        network: a plain network.
        path: a new file; its folder is made if missing.

    Raises:
        FileExistsError: if the file exists; it is left as it is.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; expected a new file: give another name or move the old one away")
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        torch.save(state_with_grid(network, network.state_dict()), temporary)


def _refuse_random_part(network: nn.Module, report: WeightReport, base: Path) -> None:
    known = report.loaded | adaptation_of(network).changing | dead_parameters(network)
    for name, _ in network.named_parameters():
        if name not in known:
            raise ValueError(
                f"'{name}' of the {part_of(network, name)} is neither in {base} nor in the adapter: it would be "
                f"random; give weights that hold it, or the config of the network that was adapted"
            )
