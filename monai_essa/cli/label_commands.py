# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa label init` and `monai-essa label start`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from monai_essa.cli.arguments import Commands, add_command, add_family

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the commands ``label init`` and ``label start``."""
    family = add_family(commands, "label", "make and start a MONAI Label server that trains adapters")
    init = add_command(
        family,
        "init",
        _init,
        "write an app folder for MONAI Label around a bundle that has weights",
        "monai-essa label init spleen_app --bundle spleen_ct_segmentation",
    )
    init.add_argument("folder", type=Path, metavar="DIR", help="the new app folder")
    init.add_argument("--bundle", type=Path, action="append", required=True, help="a bundle's folder; may be repeated")
    init.add_argument("--link", action="store_true", help="link to the bundle, which then trains; default: copy it")
    start = add_command(
        family,
        "start",
        _start,
        "start the server of an app folder, for this computer only unless --host says otherwise",
        "monai-essa label start spleen_app --studies scans",
    )
    start.add_argument("folder", type=Path, metavar="DIR", help="the app folder")
    start.add_argument("--studies", required=True, help="folder of the images (NIfTI), or a DICOMweb address")
    start.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    start.add_argument("--port", type=int, default=8000, help="port to listen at (default: 8000)")
    start.add_argument(
        "--origin",
        action="append",
        default=[],
        metavar="URL",
        help="a web page that may talk to the server, such as https://label.example.org; may be repeated",
    )


def _init(arguments: argparse.Namespace) -> int:
    from monai_essa.bundling.folder import make_label_folder

    folder = make_label_folder(arguments.folder, arguments.bundle, arguments.link)
    print(f"wrote {folder}\nstart it: monai-essa label start {folder} --studies DIR")
    return 0


def _start(arguments: argparse.Namespace) -> int:
    if not (arguments.folder / "main.py").is_file():
        raise FileNotFoundError(f"{arguments.folder} has no main.py; write one: monai-essa label init DIR --bundle B")
    try:
        from monailabel.main import Main
    except ImportError as error:
        raise ImportError('MONAI Label is missing; pip install "monai_essa[label]" in its own environment') from error

    # MONAI Label reads the arguments of the process, and hands what follows to its server and to the trainings.
    options = {"--app": arguments.folder, "--studies": arguments.studies, "--host": arguments.host}
    options["--port"] = arguments.port
    sys.argv = ["monailabel", "start_server", *(str(part) for option in options.items() for part in option)]
    if arguments.origin:
        sys.argv += ["--conf", "origins", ",".join(arguments.origin)]
    Main().run()
    return 0
