# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa run`, `predict`, `report` and `demo`: the commands that run bundles, and the page about their runs.

`run` does what `python -m monai.bundle run` does. With --dry-run it only checks that this would work, and prints the
problems of the data, the cost of the steps, the trained share and the disk space.
"""

from __future__ import annotations

import argparse
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_essa.bundling.folder import check_configs
from monai_essa.cli.arguments import Commands, add_command, add_values_argument, config_values, counted
from monai_essa.cli.data_commands import print_check

if TYPE_CHECKING:
    from monai_essa.planning.dry_run import Trial

__all__ = ["add_demo_to", "add_to", "dry_run"]


def add_to(commands: Commands) -> None:
    """Add the commands ``run``, ``predict`` and ``report``."""
    _add_run(commands)
    _add_predict(commands)
    _add_report(commands)


def dry_run(config_files: Sequence[str], values: Mapping[str, Any]) -> int:
    """Check the data, take two training steps and print what the run would cost; the run folder is not touched.

    Args:
        config_files: merged in order.
        values: over those of the configs, by id.

    Returns:
        0, or 1 if the data has errors or the disk is too small.

    Raises:
        FileNotFoundError: if a config or a file that it names does not exist.
        ValueError: if the config is not a training config of this library's bundles.
    """
    from monai_essa.adapters.summary import summary
    from monai_essa.planning.dry_run import check_training_data, disk_space, dry_config, dry_trial

    parser = dry_config(config_files, values)
    check = check_training_data(parser)
    print_check(check)
    if check.errors:
        print("the data has errors, so nothing was built: correct the files or leave them out")
        return 1

    print(*_cost_lines(dry_trial(parser)), sep="\n")
    print(parser.get_parsed_content("introduction"))
    print(summary(parser.get_parsed_content("network")).table())
    space = disk_space(parser)
    print(f"disk: about {space.needed / 1e9:.2f} GB needed, {space.free / 1e9:.1f} GB free at {space.folder}")
    return 0 if space.free > space.needed else 1


def add_demo_to(commands: Commands) -> None:
    """Add the command ``demo``."""
    parser = add_command(
        commands,
        "demo",
        _demo,
        "pre-train, adapt and segment on a small template-derived cohort, with a report at the end",
        "monai-essa demo --output my_demo",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="an MSD-style folder to use in place of the cohort")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo"), metavar="DIR", help="a new folder (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the cohort and the runs (default: %(default)s)")


def _add_run(commands: Commands) -> None:
    parser = add_command(
        commands,
        "run",
        _run,
        "run a bundle as `python -m monai.bundle run` does, with its options; --dry-run only checks that it would work",
        "monai-essa run --dry-run --args_file my_site.yaml\n"
        "monai-essa run --dry-run --config_file essa_ssa/configs/train.yaml --dataset_dir DIR --pretrained vit.pt",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the data, take two training steps, and print memory, time and disk; nothing is written",
    )
    parser.set_defaults(passes_on=True)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        config_files, values = _bundle_options(arguments.rest)
        return dry_run(config_files, values)

    import fire
    from monai.bundle.scripts import run as run_bundle

    @functools.wraps(run_bundle)  # for fire, which reads the options off the signature
    def checked_run(*values: Any, **options: Any) -> None:
        _check_files(inspect.signature(run_bundle).bind(*values, **options).arguments)
        run_bundle(*values, **options)

    fire.Fire(checked_run, command=arguments.rest, name="monai-essa run")
    return 0


def _check_files(given: Mapping[str, Any]) -> None:
    """Check the config files that the options name, and those that the file of --args_file names."""
    from monai.bundle import ConfigParser

    listed = given.get("args_file") or {}  # a mapping is taken as it is
    if not isinstance(listed, dict):
        check_configs(listed)
        listed = ConfigParser.load_config_file(listed) if isinstance(listed, str) else {}
    for name in ("config_file", "meta_file"):
        check_configs(listed.get(name) if given.get(name) is None else given[name])


def _bundle_options(rest: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Read the options as `python -m monai.bundle run` does: by fire, with precedence over those of --args_file."""
    import fire
    from monai.bundle.scripts import update_kwargs
    from monai.utils import ensure_tuple

    options: dict[str, Any] = {}

    def take(
        run_id: str | None = None,
        config_file: str | Sequence[str] | None = None,
        args_file: str | None = None,
        **override: Any,
    ) -> None:
        check_configs(args_file)
        options.update(update_kwargs(args=args_file, config_file=config_file, **override))

    fire.Fire(take, command=list(rest), name="monai-essa run --dry-run")
    if not options.get("config_file"):
        raise ValueError("no config: give --config_file FILE, or --args_file FILE with a 'config_file' in it")
    not_of_config = ("config_file", "run_id", "init_id", "final_id", "meta_file", "logging_file", "tracking")
    values = {key: value for key, value in options.items() if key not in not_of_config}
    return [str(path) for path in ensure_tuple(options["config_file"])], values


def _cost_lines(trial: Trial) -> Iterator[str]:
    yield f"loss: {trial.loss:.4g} after a step"
    yield f"time: {trial.step_seconds:.2f} s a step, {trial.batch_seconds:.2f} s to load a batch without the cache"
    whole = _duration(trial.steps * trial.step_seconds)
    yield f"estimate: {trial.steps:,} steps, about {whole}, without loading and validation"
    memory = "measured on CUDA only" if trial.memory_bytes is None else f"{trial.memory_bytes / 1e9:.2f} GB"
    yield f"memory: {memory} (this run: {trial.device})"


def _duration(seconds: float) -> str:
    units = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
    unit, size = next((unit for unit in units if seconds >= unit[1]), units[-1])
    return f"{seconds / size:.2g} {unit}"


def _add_predict(commands: Commands) -> None:
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


def _add_report(commands: Commands) -> None:
    parser = add_command(
        commands,
        "report",
        _report,
        "write report.html about runs or about a study: results, cases, pictures, curves, and what they were made with",
        "monai-essa report runs/spleen --datalist scans/dataset.json\n"
        "monai-essa report runs/ssa runs/no_ssa --out compared.html\n"
        "monai-essa report my_study\n"
        "monai-essa report study_3_labels study_10_labels --out labels.html",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or folders of studies")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: report.html in the first folder; with --show-ids report_with_ids.html)",
    )
    parser.add_argument("--datalist", type=Path, metavar="FILE", help="of the runs: it names the label maps to draw")
    parser.add_argument(
        "--show-ids", action="store_true", help="call cases by the names of their files (default: by digests)"
    )


def _report(arguments: argparse.Namespace) -> int:
    from monai_essa.report.runs import write_run_report
    from monai_essa.report.study import write_efficiency_report, write_study_report

    runs, out = arguments.runs, arguments.out
    studies = [(run / "plan.yaml").is_file() for run in runs]
    if studies == [True]:
        page = write_study_report(runs[0], arguments.show_ids, out)
    elif all(studies):
        page = write_efficiency_report(runs, out)
    elif any(studies):
        raise ValueError("expected folders of runs or of studies, got both; make a page of each")
    else:
        page = write_run_report(runs, out, arguments.datalist, arguments.show_ids)
    print(f"wrote {page}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from monai_essa.demo import run_demo

    return run_demo(arguments.data, arguments.output, arguments.seed)
