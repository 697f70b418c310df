# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa compare`: which procedure is better on new patients, from the scores of finished runs."""

from __future__ import annotations

import argparse
import glob
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from monai_essa.cli.arguments import Commands, add_command, counted
from monai_essa.outside import NAME, Text

if TYPE_CHECKING:
    from monai_essa.evaluation.run_scores import RunScores, SiteScores
    from monai_essa.evaluation.verdict import Verdict

__all__ = ["add_to", "arm_folders"]

_HEADERS = ("procedure", "mean", "95 % interval", "patients", "repeats")


def add_to(commands: Commands) -> None:
    """Add the command ``compare``."""
    parser = add_command(
        commands,
        "compare",
        _compare,
        "compare finished runs patient by patient, the first procedure with each other one, and give a verdict",
        "monai-essa compare runs/ssa runs/no_ssa\n"
        "monai-essa compare 'with=runs/ssa_*' 'without=runs/no_ssa_*' --margin 0.02 --out verdict.json\n"
        "monai-essa compare 'with=runs/ssa_*' --rival nnunet=their_masks --datalist datalist.json",
    )
    parser.add_argument(
        "arms",
        nargs="+",
        metavar="[NAME=]DIR[,DIR...]",
        help="a procedure: the folders of its finished and scored runs, one for each repeat (another seed, best also "
        "another draw of the training data), or one for each fold of each repeat (the same seed); a pattern in quotes "
        "stands for several; repeats are paired by their seeds, else by their order",
    )
    parser.add_argument(
        "--rival",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="what another tool predicted for the same cases: a folder of label maps named by case (needs --datalist "
        "for the labels), or a CSV table with the column image and a probability for each class; may be repeated",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.02,
        help="how much worse the first may be and still be non-inferior, chosen before the runs (default: %(default)s)",
    )
    parser.add_argument(
        "--datalist",
        type=Path,
        metavar="FILE",
        help="of the runs: it names the patient of each image, and the labels that a rival is scored against",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the verdict as JSON too, to a new file")


def arm_folders(arguments: Sequence[str], least: int = 2) -> dict[str, list[Path]]:
    """Read the procedures as they were typed.

    Args:
        arguments: ``DIR`` or ``NAME=DIR``, with several folders joined by commas; a folder with ``*``, ``?`` or
            ``[...]`` stands for all that match, in sorted order.
        least: number of procedures.

    Returns:
        The folders of each procedure by its name, which by default is that of its first folder.

    Raises:
        FileNotFoundError: if nothing matches a pattern.
        ValueError: if there are fewer procedures, or a name or a folder comes twice or is no name.

    Example:
        >>> arms = arm_folders(["with=runs/a,runs/b", "without=runs/c,runs/d"])
        >>> {name: [folder.name for folder in folders] for name, folders in arms.items()}
        {'with': ['a', 'b'], 'without': ['c', 'd']}
    """
    arms: dict[str, list[Path]] = {}
    for argument in arguments:
        name, equals, listed = argument.partition("=")
        if not equals or Path(argument).is_dir():
            name, listed = "", argument
        parts = [listed] if Path(listed).is_dir() else listed.split(",")
        folders = [folder for part in parts for folder in _found(part)]
        first = folders[0].absolute()
        name = name or (first.parent if first.name == "test" else first).name
        Text(NAME, longest=64).check(name, f"the name of {argument}")
        if name in arms:
            raise ValueError(f"two procedures are called {name!r}; give them names as in with={folders[0]}")
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise ValueError(f"{name}: a folder comes twice; expected a run of its own for each repeat")
        arms[name] = folders
    if len(arms) < least:
        raise ValueError(f"{', '.join(arms)}: expected at least two procedures, each as [NAME=]DIR[,DIR...]")
    return arms


def _found(part: str) -> list[Path]:
    if not part:
        raise ValueError("expected a folder on each side of a comma and after '=', got nothing")
    if Path(part).exists() or not glob.has_magic(part):
        return [Path(part)]
    folders = [Path(path) for path in sorted(glob.glob(part)) if Path(path).is_dir()]
    if not folders:
        raise FileNotFoundError(f"{part}: no folder matches; give the folders of finished runs")
    return folders


def _compare(arguments: argparse.Namespace) -> int:
    from monai_essa.evaluation.auc_difference import auc_comparison, why_no_auc
    from monai_essa.evaluation.run_scores import read_run, site_scores
    from monai_essa.evaluation.verdict import reach_verdict
    from monai_essa.files import write_text_whole

    if arguments.out is not None and arguments.out.exists():
        raise FileExistsError(f"{arguments.out} exists; expected a new file: give another --out or move it away")
    folders = arm_folders(arguments.arms, least=1 if arguments.rival else 2)
    runs = {name: [read_run(folder) for folder in repeats] for name, repeats in folders.items()}
    rivals = _rivals(arguments.rival, next(iter(runs.values())), arguments.datalist)
    if clash := sorted(rivals.keys() & runs.keys()):
        raise ValueError(f"a procedure and a rival are both called {clash[0]!r}; give one another name")
    site = site_scores(
        runs, _listed(arguments.datalist, rivals.keys()), {name: [scores] for name, (scores, _) in rivals.items()}
    )
    protocol = {"metric": site.metric, "unit": site.unit, "cases": site.cases, "undefined_cases": site.undefined}
    verdict = reach_verdict(site.arms, arguments.margin, protocol)
    in_auc = [] if why_no_auc(site) else [auc_comparison(site, each.a, each.b) for each in verdict.primary]
    about = {name: {"kind": "rival", "blinded": blinded} for name, (_, blinded) in rivals.items()}
    rows = [{**row, **about.get(row["name"], {})} for row in verdict.arms]
    verdict = replace(verdict, arms=rows, comparisons=[*verdict.comparisons, *in_auc])
    _print(verdict, site)
    if arguments.out is not None:
        write_text_whole(arguments.out, json.dumps(verdict.as_dict(), indent=2, allow_nan=False) + "\n")
        print(f"wrote {arguments.out}")
    return 0


def _rivals(
    arguments: Sequence[str], runs: Sequence[RunScores], datalist: Path | None
) -> dict[str, tuple[RunScores, bool]]:
    """Return the scores of each rival by its name, and whether it says that it had the splits of the study."""
    from monai_essa.data.lists.fold_files import holds_fold_file
    from monai_essa.data.lists.read import read_datalist

    listed = read_datalist(datalist) if arguments and datalist is not None else {}
    found = {}
    for argument in arguments:
        name, equals, place = argument.partition("=")
        if not equals or not place:
            raise ValueError(f"--rival {argument}: expected NAME=PATH, as in nnunet=their_masks")
        Text(NAME, longest=64).check(name, f"the name of --rival {argument}")
        path = Path(place)
        folder = path.parent if path.is_file() else path
        found[name] = _rival(path, runs, datalist), holds_fold_file(folder, listed)
    return found


def _rival(path: Path, runs: Sequence[RunScores], datalist: Path | None) -> RunScores:
    from monai_essa.evaluation.baselines.rivals import rival_masks, rival_probabilities
    from monai_essa.evaluation.run_scores import DICE, RunScores

    classes = runs[0].classes
    truth = {case: label for run in runs for case, label in run.truth.items()}
    if runs[0].metric != DICE:
        return rival_probabilities(path, RunScores(path, runs[0].metric, {}, truth), classes)
    if datalist is None:
        raise ValueError(f"--rival {path}: expected --datalist FILE too, which names the labels of the tested cases")
    return rival_masks(path, truth, datalist, len(classes) + 1)


def _listed(datalist: Path | None, rivals: Collection[str] = ()) -> Mapping[str, str]:
    """Return the patient of each image of a data list, of all its sections; a list may be there for rivals alone."""
    from monai_essa.data.lists.read import listed_patients, read_datalist, section_items

    if datalist is None:
        return {}
    patients = listed_patients(datalist, [name for name, items in section_items(read_datalist(datalist)) if items])
    if not patients and not rivals:
        raise ValueError(
            f"{datalist}: no image has a 'patient'; leave --datalist out, and file names tell the patients"
        )
    return patients


def _print(verdict: Verdict, site: SiteScores) -> None:
    from monai_essa.report.tables import format_table

    direction = "higher" if site.arms[0].higher_is_better else "lower"
    print(f"{site.metric} ({direction} is better)")
    repeats = f"{len(site.arms[0].scores)}"
    rows = []
    for arm in verdict.as_dict()["arms"]:
        interval = "-" if arm["low"] is None else f"{arm['low']:.4f} to {arm['high']:.4f}"
        mean = "-" if arm["mean"] is None else f"{arm['mean']:.4f}"
        name = arm["name"] + (" (not blinded)" if arm.get("blinded") is False else "")
        rows.append([name, mean, interval, f"{arm['n']}", repeats])
    print(format_table(_HEADERS, rows))
    print()
    for each in verdict.comparisons:
        print(f"{each}.")
    left = max(each.undefined for each in verdict.comparisons)
    whole = f"{counted(site.cases, 'case')} of {counted(len(site.arms[0].patients), 'patient')}"
    lacking = (
        f"left out, for want of a score in some run: {counted(site.undefined, 'case')}, {counted(left, 'patient')}"
    )
    print(f"{whole}; {lacking if site.undefined else 'all have a score in every run'}")
    print(f"unit: the {site.unit}")
