# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa adapt`: one command from scans to a verdict."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monai_essa.cli.arguments import OBJECTIVES, Commands, add_command, config_values
from monai_essa.outside import Number, Text, shown

__all__ = ["add_to"]

_MOST_HOURS = 10_000
_MOST_REPEATS = 20


def add_to(commands: Commands) -> None:
    """Add the command ``adapt``."""
    parser = add_command(
        commands,
        "adapt",
        _adapt,
        "adapt a network to your scans, compare the procedures for it on your own patients, and say which one helps",
        "monai-essa adapt scans --labels masks --hours 8 --dry-run\n"
        "monai-essa adapt scans --labels masks --hours 8 --out my_study\n"
        "monai-essa adapt pneumonia.npz --label-count 50 --pretrained vit.pt",
    )
    parser.add_argument(
        "scans", type=Path, metavar="SCANS", help="a folder of scans, a data list (JSON), or an NPZ file as of MedMNIST"
    )
    parser.add_argument("values", nargs="*", metavar="KEY=VALUE", help="values over those of the plan, as batch_size=4")
    parser.add_argument(
        "--labels", type=Path, metavar="LABELS", help="a folder of label maps, or a CSV table with 'image' and 'label'"
    )
    parser.add_argument("--task", choices=("segmentation", "classification"), help="(default: by the labels)")
    parser.add_argument(
        "--pretrained",
        metavar="BASE",
        help="a weight file, family:NAME, or bundle:DIR (default: a base is pre-trained on the scans)",
    )
    parser.add_argument(
        "--overlay",
        type=Path,
        metavar="FILE",
        help="a config over those of every stage: values, transforms, or the encoder of BASE where MONAI lacks it",
    )
    _add_terms(parser)
    parser.add_argument("--out", type=Path, default=Path("study"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print stages, hours, memory and disk; write nothing")
    parser.set_defaults(passes_on=True)  # argparse finds no KEY=VALUE after an option


def _add_terms(parser: argparse.ArgumentParser) -> None:
    """Add what a study may take, and the terms on which it compares."""
    parser.add_argument("--objective", choices=OBJECTIVES, help="of SSA and TPP (default: that of the bundles)")
    parser.add_argument("--memory", metavar="SIZE", help="of the card, as 12GB (default: what this computer has)")
    parser.add_argument(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="that each training uses, with the same results; without a GPU, as many processes (default: %(default)s)",
    )
    parser.add_argument("--hours", default="8", metavar="HOURS", help="for everything (default: %(default)s)")
    parser.add_argument(
        "--label-count",
        nargs="+",
        default=[],
        metavar="N",
        help="labelled patients that each training uses (default: all that are not tested); the verdict is about the "
        "first number, and further ones draw the label efficiency",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="N",
        help="of everything, each with other draws; fewer where the hours are short (default: %(default)s, at least 3)",
    )
    parser.add_argument(
        "--margin",
        default="0.02",
        help="how much worse a simpler arm may be without consequence (default: %(default)s)",
    )
    parser.add_argument(
        "--rival",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="label maps, or a table of probabilities, of another tool for the tested patients; may be repeated",
    )
    parser.add_argument(
        "--export-splits",
        choices=("nnunet", "csv"),
        help="plan only, and write who trains and who is tested, for a rival that shall be blinded",
    )
    parser.add_argument("--seed", type=int, default=0, help="of draws and trainings (default: %(default)s)")
    parser.add_argument("--transductive", action="store_true", help="let SSA see the scans of the tested patients too")


def _adapt(arguments: argparse.Namespace) -> int:
    pretrained = _pretrained(arguments.pretrained)
    hours, margin = _number(arguments.hours, "--hours", _MOST_HOURS), _number(arguments.margin, "--margin", 1)
    from monai_essa.planning.choices import bytes_of
    from monai_essa.planning.overlay import read_overlay
    from monai_essa.study.run import run_study
    from monai_essa.study.splits import SplitRequest
    from monai_essa.study.terms.request import AdaptRequest, StudyRequest

    counts = _label_counts(arguments)
    overlay = None if arguments.overlay is None else read_overlay(arguments.overlay)
    values = {**({} if overlay is None else overlay.values), **_values(arguments)}
    request = AdaptRequest(
        scans=arguments.scans,
        labels=arguments.labels,
        task=arguments.task,
        split=SplitRequest(
            counts[0] if counts else None,
            repeats=_repeats(arguments.repeats),
            seed=arguments.seed,
            transductive=arguments.transductive,
            further=tuple(counts[1:]),
        ),
        study=StudyRequest(pretrained, hours, values, arguments.seed, overlay=overlay, objective=arguments.objective),
        memory=bytes_of(arguments.memory) if arguments.memory else None,
        margin=margin,
        rivals=dict(map(_rival, arguments.rival)),
    )
    return run_study(request, arguments.out, arguments.dry_run, arguments.export_splits, arguments.gpus)


def _repeats(count: int) -> int:
    if not 3 <= count <= _MOST_REPEATS:
        raise ValueError(f"--repeats: expected 3 to {_MOST_REPEATS}, since fewer decide nothing, got {count}")
    return count


def _label_counts(arguments: argparse.Namespace) -> list[int]:
    """Return the numbers of --label-count, behind which argparse also puts KEY=VALUE."""
    numbers = [part for part in arguments.label_count if "=" not in part]
    wrong = next((part for part in numbers if not part.lstrip("-").isdigit()), None)
    if wrong is not None:
        raise ValueError(f"--label-count {shown(wrong)}: expected whole numbers, as in --label-count 10 50")
    return [int(part) for part in numbers]


def _values(arguments: argparse.Namespace) -> dict[str, Any]:
    behind = [part for part in arguments.label_count if "=" in part]
    wrong = next((part for part in arguments.rest if part.startswith("-") or "=" not in part), None)
    if wrong is not None:
        raise ValueError(f"{shown(wrong)}: expected an option of adapt, or KEY=VALUE; see monai-essa adapt --help")
    return config_values([*arguments.values, *behind, *arguments.rest])


def _pretrained(given: str | None) -> str | None:
    """Return a base with an absolute path, since the stages may run from anywhere."""
    if given is None or given.startswith("family:"):
        return given
    kind, path = ("bundle:", given.removeprefix("bundle:")) if given.startswith("bundle:") else ("", given)
    if not Path(path).exists():
        raise FileNotFoundError(f"--pretrained {given}: no such file or folder; give a weight file or bundle:DIR")
    return f"{kind}{Path(path).absolute()}"


def _rival(argument: str) -> tuple[str, Path]:
    name, _, path = argument.partition("=")
    if not path:
        raise ValueError(f"--rival {shown(argument)}: expected NAME=PATH, as in nnunet=their_masks")
    return Text(r"[A-Za-z0-9][A-Za-z0-9_-]*", longest=64).check(name, "the name of --rival"), Path(path)


def _number(text: str, option: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{option} {shown(text)}: expected a number, such as 0.5") from None
    if number <= 0:
        raise ValueError(f"{option} {shown(text)}: expected a number above 0")
    return float(Number(0, most).check(number, option))
