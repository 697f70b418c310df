# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa weights probe`: are these weights alive on my scans?"""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_essa.cli.arguments import Commands, add_command, add_family, add_values_argument, config_values

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the family ``weights``."""
    family = add_family(commands, "weights", "look at files of pretrained weights before anything is trained")
    parser = add_command(
        family,
        "probe",
        _probe,
        "ask on at most 64 crops of your scans whether a weight file beats random weights",
        "monai-essa weights probe model_swinvit.pt scans/dataset.json --network swin_unetr --args spacing=[1.5,1.5,2]",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the weights")
    parser.add_argument("datalist", type=Path, metavar="DATALIST", help="of the scans, with or without labels")
    parser.add_argument(
        "--bundle",
        default="essa_ssa",
        metavar="NAME",
        help="whose preprocessing and network are used: essa_segmentation or essa_classification look at the labels "
        "(default: %(default)s, which looks at positions)",
    )
    for kind in ("network", "intensity", "images"):
        parser.add_argument(f"--{kind}", metavar="VARIANT", help=f"the bundle's {kind}_VARIANT.yaml")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of crops and random weights (default: 0)")
    add_values_argument(parser, "train.yaml")


def _probe(arguments: argparse.Namespace) -> int:
    from monai_essa.bundling.folder import find_bundle
    from monai_essa.evaluation.probe_scans import probe_weights
    from monai_essa.planning.dry_run import dry_config

    configs = find_bundle(arguments.bundle) / "configs"
    kinds = ("images", "network", "intensity")
    overlays = [f"{kind}_{getattr(arguments, kind)}.yaml" for kind in kinds if getattr(arguments, kind)]
    values = {"datalist": str(arguments.datalist), "dataset_dir": str(arguments.datalist.parent)}
    parser = dry_config(
        [str(configs / name) for name in ("train.yaml", *overlays)], values | config_values(arguments.args)
    )
    print(probe_weights(parser, arguments.file, arguments.seed))
    return 0
