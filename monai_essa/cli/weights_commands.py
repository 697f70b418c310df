# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa weights`: the families that are known, what a file needs, and whether it is alive on your scans."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monai_essa.cli.arguments import Commands, add_command, add_family, add_values_argument, config_values

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

__all__ = ["add_to"]

_KINDS = ("images", "network", "intensity")


def add_to(commands: Commands) -> None:
    """Add the commands ``weights list``, ``weights check`` and ``weights probe``."""
    family = add_family(commands, "weights", "look at files of pretrained weights before anything is trained")
    add_command(family, "list", _list, "list the families of public weights that are known", "monai-essa weights list")
    parser = add_command(
        family,
        "check",
        _check,
        "tell a file's family and the network that it needs, write the overlay and try it",
        "monai-essa weights check model_swinvit.pt\nmonai-essa weights check vit.pt --network unetr",
    )
    parser.add_argument("file", metavar="FILE", help="the weights, or family:NAME")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the overlay (default: FILE's name with .yaml)")
    _add_bundle(parser)
    parser = add_command(
        family,
        "probe",
        _probe,
        "ask on at most 64 crops of your scans whether a weight file beats random weights",
        "monai-essa weights probe model_swinvit.pt scans/dataset.json --network swin_unetr --args spacing=[1.5,1.5,2]\n"
        "monai-essa weights probe vit.pt scans/dataset.json --bundle essa_classification --after runs/ssa/model.pt",
    )
    parser.add_argument("file", metavar="FILE", help="the weights, or family:NAME")
    parser.add_argument("datalist", type=Path, metavar="DATALIST", help="of the scans, with or without labels")
    _add_bundle(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of crops and random weights (default: 0)")
    parser.add_argument(
        "--after",
        type=Path,
        metavar="FILE",
        help="model.pt of an adaptation: compare it with FILE by k-NN on labels, with --bundle essa_segmentation or "
        "essa_classification",
    )


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle",
        default="essa_ssa",
        metavar="NAME",
        help="whose network and preprocessing are used; a probe with essa_segmentation or essa_classification asks "
        "about the labels, with essa_ssa about positions (default: %(default)s)",
    )
    for kind in _KINDS:
        parser.add_argument(f"--{kind}", metavar="VARIANT", help=f"the bundle's {kind}_VARIANT.yaml")
    parser.add_argument(
        "--overlay", type=Path, action="append", default=[], metavar="FILE", help="one more config, as check writes it"
    )
    add_values_argument(parser, "train.yaml")


def _list(_: argparse.Namespace) -> int:
    from monai_essa.weights.families import FAMILIES

    for family in FAMILIES:
        published, licence = family.published, family.licence
        size = "" if published.size is None else f", {published.size / 1e6:.0f} MB"
        restricted = f" ({', '.join(licence.restrictions)})" if licence.restrictions else ""
        print(family.name)
        print(f"  fits: {'; '.join(family.networks)}")
        print(f"  licence: {licence.name or 'unknown'}{restricted}")
        print(f"  published: {published.where}{size}")
        print(f"  checked with: {family.checked}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from monai_essa.evaluation.probe_scans import random_network
    from monai_essa.files import write_text_whole
    from monai_essa.weights import load_weights
    from monai_essa.weights.family_files import check_weights, overlay_text, shipped_overlay

    check = check_weights(arguments.file)
    print(check)
    if arguments.network is None:
        out = arguments.out or Path(f"{check.path.stem}.yaml")
        if out.exists():
            raise FileExistsError(f"{out} exists; expected a new file: give another --out or move it away")
        arguments.network = shipped_overlay(check)
        network = f" --network {arguments.network}" if arguments.network else ""
        command = f"monai-essa weights probe {check.path} DATALIST{network} --overlay {out}"
        write_text_whole(out, overlay_text(check, command))
        arguments.overlay.append(out)
        print(f"wrote {out}")
    print(load_weights(random_network(_training_config(arguments, {})), check.path))
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from monai_essa.evaluation.probe_scans import probe_neighbours, probe_weights
    from monai_essa.outside import check_config_value

    values = {"datalist": str(arguments.datalist), "dataset_dir": str(arguments.datalist.parent)}
    values = check_config_value(values, "DATALIST")
    if arguments.after is not None:
        print(probe_neighbours(_training_config(arguments, values), arguments.file, arguments.after))
        return 0
    print(probe_weights(_training_config(arguments, values), arguments.file, arguments.seed))
    return 0


def _training_config(arguments: argparse.Namespace, values: dict[str, str]) -> ConfigParser:
    from monai_essa.bundling.folder import find_bundle
    from monai_essa.planning.dry_run import dry_config

    configs = find_bundle(arguments.bundle) / "configs"
    chosen = [f"{kind}_{getattr(arguments, kind)}.yaml" for kind in _KINDS if getattr(arguments, kind) is not None]
    files = [*(configs / name for name in ("train.yaml", *chosen)), *arguments.overlay]
    return dry_config([str(path) for path in files], values | config_values(arguments.args))
