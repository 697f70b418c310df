# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa data datalist` and `monai-essa data check`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_essa.cli.arguments import Commands, add_command, add_family, counted

if TYPE_CHECKING:
    from monai_essa.data import DataCheck

__all__ = ["add_to", "print_check"]


def add_to(commands: Commands) -> None:
    """Add the commands ``data datalist`` and ``data check``."""
    family = add_family(commands, "data", "make and check datalists")
    _add_datalist(family)
    _add_check(family)


def print_check(check: DataCheck) -> None:
    """Print the problems of a data check, one a line, then the summary and the counts."""
    for problem in check.problems:
        print(problem)
    print(*check.summary, sep="\n")
    counts = Counter(problem.severity for problem in check.problems)
    print(f"{counted(counts['error'], 'error')}, {counted(counts['warning'], 'warning')}")


def _add_datalist(family: Commands) -> None:
    parser = add_command(
        family,
        "datalist",
        _datalist,
        "pair images with labels, take one series of each study, split by patient and write the datalist",
        "monai-essa data datalist scans --labels masks --fractions training=3 validation=2 testing=0.2",
    )
    parser.add_argument("images", type=Path, metavar="DIR", help="searched with its sub-folders for volumes")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="where the labels are (default: under DIR)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new JSON file (default: DIR/dataset.json)")
    parser.add_argument(
        "--fractions",
        type=_share,
        nargs="+",
        metavar="SECTION=SHARE",
        help="of the patients with labels: a fraction (0.7) or a number (3) for each section; what is left over is "
        "used without its labels (default: training=0.7 validation=0.1 testing=0.2)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    parser.add_argument(
        "--group-by",
        choices=("folder", "name"),
        default="folder",
        help="what makes a patient where neither DICOM nor BIDS names tell (default: the first sub-folder)",
    )
    parser.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="what makes a patient instead: the one group of an expression that is searched for in the path, as "
        "'(patient\\d+)_frame'",
    )
    parser.add_argument(
        "--pattern", default="*", help="take only images whose name fits, as '*_T1w.nii.gz' (default: all)"
    )
    parser.add_argument(
        "--label-pattern",
        default="*",
        metavar="PATTERN",
        help="take only label maps whose name fits, as '*/liver.nii.gz', where an image has several (default: all)",
    )
    parser.add_argument(
        "--images-are-masks",
        action="store_true",
        help="take the label maps in DIR for images, to classify shapes; labels come from --labels only",
    )
    parser.add_argument(
        "--leave-out-unpaired",
        action="store_true",
        help="leave out label maps that cannot be paired for sure (default: say which, and write nothing)",
    )
    _add_label_map(parser, "written into the datalist")


def _add_check(family: Commands) -> None:
    parser = add_command(
        family,
        "check",
        _check,
        "read every file of a datalist once and say what is wrong; exit code 1 if there are errors",
        "monai-essa data check scans/dataset.json --section training validation",
    )
    parser.add_argument("datalist", type=Path, metavar="DATALIST", help="a JSON file")
    parser.add_argument(
        "--section", nargs="+", metavar="NAME", help="check these only, as source#training (default: all)"
    )
    parser.add_argument(
        "--base-dir", type=Path, metavar="DIR", help="what its paths are relative to (default: its own folder)"
    )
    _add_label_map(parser, "default: that of the datalist")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings to this new file, too")


def _add_label_map(parser: argparse.ArgumentParser, note: str) -> None:
    parser.add_argument(
        "--label-map",
        type=_id,
        nargs="+",
        metavar="VALUE=ID",
        help=f"ids that voxel values of label maps stand for, as 255=1 ({note})",
    )


def _datalist(arguments: argparse.Namespace) -> int:
    from monai_essa.data import CaseRules, make_datalist, write_datalist
    from monai_essa.data.lists.splits import DEFAULT_SHARES

    rules = CaseRules(
        pattern=arguments.pattern,
        label_pattern=arguments.label_pattern,
        group_by=arguments.group_by,
        patient_pattern=arguments.patient_pattern,
        images_are_masks=arguments.images_are_masks,
        leave_out_unpaired=arguments.leave_out_unpaired,
    )
    shares = dict(arguments.fractions) if arguments.fractions else DEFAULT_SHARES
    datalist, left_out = make_datalist(arguments.images, arguments.labels, shares, arguments.seed, rules)
    if arguments.label_map:
        datalist["label_map"] = {f"{value:g}": number for value, number in arguments.label_map}
    path = write_datalist(datalist, arguments.out or arguments.images / "dataset.json")
    _print_sections(datalist)
    if "channel_names" in datalist:
        print(f"channels of an image, in this order: {', '.join(datalist['channel_names'].values())}")
    if left_out:
        print(*(f"left out: {line}" for line in left_out), sep="\n")
        print(f"{counted(len(left_out), 'file')} left out")
    print(f"wrote {path}; next: monai-essa data check {path}")
    return 0


def _print_sections(datalist: Mapping[str, Any]) -> None:
    from monai_essa.report.tables import format_table

    rows = [
        [
            section,
            f"{len({item['patient'] for item in items})}",
            f"{len(items)}",
            f"{sum('label' in item for item in items)}",
        ]
        for section, items in datalist.items()
        if isinstance(items, list)
    ]
    print(format_table(["section", "patients", "images", "labels"], rows))


def _check(arguments: argparse.Namespace) -> int:
    from monai_essa.data import check_datalist

    label_map = dict(arguments.label_map) if arguments.label_map else None
    if arguments.json is not None:
        _check_new(arguments.json)
    check = check_datalist(arguments.datalist, arguments.section, arguments.base_dir, label_map)
    print_check(check)
    if arguments.json is not None:
        findings = {
            "problems": [dataclasses.asdict(problem) for problem in check.problems],
            "summary": list(check.summary),
            "errors": len(check.errors),
        }
        with arguments.json.open("x", encoding="utf-8") as file:
            file.write(json.dumps(findings, indent=1) + "\n")
    return 1 if check.errors else 0


def _check_new(path: Path) -> None:
    """Refuse a path that cannot be written to before anything is read, since a check may take hours."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists; expected a new file: give another --json or move it away")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder for {path.name}; make it, or give another --json")


def _share(text: str) -> tuple[str, float]:
    section, _, share = text.partition("=")
    try:
        return section, int(share) if share.isdigit() else float(share)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected SECTION=SHARE such as training=0.7, got {text!r}") from error


def _id(text: str) -> tuple[float, int]:
    value, _, number = text.partition("=")
    try:
        return float(value), int(number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected VALUE=ID such as 255=1, got {text!r}") from error
