# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""`monai-essa run`: runs a bundle as `python -m monai.bundle run` does, or with --dry-run checks that it would work."""

from __future__ import annotations

import argparse
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from monai_essa.bundling.folder import check_configs
from monai_essa.cli.arguments import Commands, add_command

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command ``run``."""
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
        from monai_essa.cli.dry_run import dry_run

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
