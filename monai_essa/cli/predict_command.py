# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa predict`: a bundle's inference on a file or on every volume of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_essa.cli.arguments import Commands, add_command, add_values_argument, config_values, counted

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command ``predict``."""
    parser = add_command(
        commands,
        "predict",
        _predict,
        "run a bundle's inference on a file, on every volume or picture of a folder, or on the images of a data list",
        "monai-essa predict --bundle spleen_ct_segmentation --input scans --output masks\n"
        "monai-essa predict --bundle spleen_ct_segmentation --adapter site_a.safetensors --input a.nrrd --output masks",
    )
    parser.add_argument("--bundle", required=True, help="a bundle's folder (or name) with an inference config")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="FILE|DIR|LIST",
        help="a volume or picture, a folder of them, or a data list (JSON, NPZ)",
    )
    parser.add_argument("--section", metavar="NAME", help="of the data list, such as testing (default: all)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="an empty or a new folder")
    parser.add_argument("--adapter", type=Path, metavar="FILE", help="an adapter file, merged onto the base weights")
    parser.add_argument(
        "--base", type=Path, metavar="WEIGHTS", help="what the adapter was trained on (default: the bundle's weights)"
    )
    add_values_argument(parser, "the inference config")


def _predict(arguments: argparse.Namespace) -> int:
    if arguments.base is not None and arguments.adapter is None:
        raise ValueError("--base WEIGHTS needs --adapter FILE; set other weights by --args checkpoint=FILE")
    if not arguments.input.exists():
        raise FileNotFoundError(f"{arguments.input}: no such file or folder; give --input a volume or a folder")
    from monai_essa.bundling.prediction_files import check_output, find_images

    output = arguments.output.absolute()
    check_output(output)
    images = find_images(arguments.input, arguments.section)
    from monai_essa.bundling.predict import Prediction, predict

    prediction = Prediction(arguments.bundle, config_values(arguments.args), arguments.adapter, arguments.base)
    written = predict(prediction, images, output)
    print(f"{counted(len(images), 'volume')}; wrote {counted(len(written), 'file')} to {arguments.output}")
    return 0
