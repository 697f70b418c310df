# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa bundles list` and `monai-essa bundles copy`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from monai_essa.bundling.folder import OVERLAYS, bundle_folder, find_bundle, list_bundles, overlay_names
from monai_essa.cli.arguments import Commands, add_command, add_family, add_values_argument, config_values

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the commands ``bundles list`` and ``bundles copy``."""
    family = add_family(commands, "bundles", "list the bundles that ship with monai_essa, make one of your own")
    add_command(family, "list", _list, "list the bundles that ship with monai_essa", "monai-essa bundles list")
    parser = add_command(
        family,
        "copy",
        _copy,
        "make a finished bundle of your own: one network, its metadata and, from a run, its weights",
        "monai-essa bundles copy essa_segmentation --network swin_unetr --name spleen_ct_segmentation \\\n"
        "    --intensity ct --labels dataset.json --args spacing=[1.5,1.5,2.0]\n"
        "monai-essa bundles copy essa_segmentation --name spleen_ct_segmentation --run runs/spleen",
    )
    parser.add_argument("bundle", metavar="NAME", help="the name or the folder of a bundle")
    parser.add_argument(
        "destination",
        type=Path,
        nargs="?",
        default=Path("."),
        metavar="DEST",
        help="where to make its folder (default: .)",
    )
    parser.add_argument("--name", metavar="NEW_NAME", help="of the new bundle and its folder (default: NAME)")
    for kind in OVERLAYS:
        parser.add_argument(f"--{kind}", metavar="VARIANT", help=f"make the bundle's {kind}_VARIANT.yaml the default")
    parser.add_argument(
        "--labels", type=Path, metavar="DATALIST", help="take the label names from this datalist's 'labels'"
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="RUN_FOLDER",
        dest="run_folder",
        help="take the weights of this run, its network, method, preprocessing and labels",
    )
    parser.add_argument(
        "--permission",
        metavar="TEXT",
        help="who allowed to share weights that derive from a base without derivatives (ND), and when; it is recorded",
    )
    add_values_argument(parser, "train.yaml and inference.yaml")


def _list(arguments: argparse.Namespace) -> int:
    from monai_essa.report.tables import format_table

    rows = []
    for name in list_bundles():
        folder = bundle_folder(name)
        metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
        rows.append([name, metadata["task"], ", ".join(overlay_names(folder, "network"))])
    print(format_table(["bundle", "task", "networks"], rows))
    return 0


def _copy(arguments: argparse.Namespace) -> int:
    from monai_essa.bundling.copy import BundleVariant, copy_bundle, listed_labels

    values = config_values(arguments.args)
    if arguments.labels is not None:
        values["labels"] = listed_labels(arguments.labels)
    source = find_bundle(arguments.bundle)
    overlays = {kind: getattr(arguments, kind) for kind in OVERLAYS if getattr(arguments, kind) is not None}
    name, run = arguments.name or source.resolve().name, arguments.run_folder
    variant = BundleVariant(name, overlays, values, run, arguments.permission)
    folder = copy_bundle(source, arguments.destination, variant)
    print(f"wrote {folder}")
    if variant.run is None:
        print(f"it has no weights: train it, then put the run's model.pt at {folder / 'models' / 'model.pt'}")
    return 0
