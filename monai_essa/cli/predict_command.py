# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa predict`: a bundle's inference on a file or on every volume of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_essa.cli.command import Commands, add_command
from monai_essa.cli.config_values import add_values_argument, config_values

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command ``predict``."""
    parser = add_command(
        commands,
        "predict",
        _predict,
        "run a bundle's inference on a file, or on every NIfTI, NRRD, MetaImage and DICOM volume of a folder",
        "monai-essa predict --bundle spleen_ct_segmentation --input scans --output masks\n"
        "monai-essa predict --bundle spleen_ct_segmentation --adapter site_a.safetensors --input a.nrrd --output masks",
    )
    parser.add_argument("--bundle", required=True, help="a bundle's folder (or name) with an inference config")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE|DIR", help="a volume, or a folder of them")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="an empty or a new folder")
    parser.add_argument("--adapter", type=Path, metavar="FILE", help="an adapter file, merged onto the base weights")
    parser.add_argument(
        "--base", type=Path, metavar="WEIGHTS", help="what the adapter was trained on (default: the bundle's weights)"
    )
    add_values_argument(parser, "the inference config")


def _predict(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from monai_essa.cli.prediction import Prediction, predict

    prediction = Prediction(arguments.bundle, config_values(arguments.args), arguments.adapter, arguments.base)
    inputs = _inputs(arguments.input)
    written = predict(prediction, inputs, arguments.output.absolute())
    print(f"{_count(len(inputs), 'volume')}; wrote {_count(len(written), 'file')} to {arguments.output}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.base is not None and arguments.adapter is None:
        raise ValueError("--base WEIGHTS needs --adapter FILE; set other weights by --args checkpoint=FILE")
    if not arguments.input.exists():
        raise FileNotFoundError(f"{arguments.input}: no such file or folder; give --input a volume or a folder")
    if arguments.output.exists() and (not arguments.output.is_dir() or any(arguments.output.iterdir())):
        raise FileExistsError(f"{arguments.output} holds files already; give --output an empty or a new folder")


def _inputs(path: Path) -> list[Path]:
    if path.is_file():
        return [path.absolute()]
    from monai_essa.data.volume_search import find_volumes

    found = [volume.path.absolute() for volume in find_volumes(path)]
    if not found:
        raise ValueError(f"{path}: expected NIfTI, NRRD, MetaImage or DICOM volumes in the folder, found none")
    return found


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
