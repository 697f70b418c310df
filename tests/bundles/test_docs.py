# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What the README of a bundle says exists: configs, keys of commands, overlays and site files."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = ("essa_ssa", "essa_tpp", "essa_segmentation", "essa_classification")
MONAI_OPTIONS = {"args_file", "meta_file", "filepath", "ckpt_file", "use_trace", "input_shape"}


def readme(bundle: str) -> str:
    return (BUNDLES / bundle / "docs" / "README.md").read_text(encoding="utf-8")


def commands(bundle: str) -> Iterator[dict[str, Any]]:
    """The options of each command that is given."""
    for line in re.findall(r"^python -m monai\.bundle .*$", readme(bundle), re.MULTILINE):
        words = shlex.split(line)
        options = {word.removeprefix("--"): words[place + 1] for place, word in enumerate(words) if word[:2] == "--"}
        yield {key: ast.literal_eval(value) if value[0] in "[{" else value for key, value in options.items()}


def files_shown(bundle: str) -> dict[str, dict[str, Any]]:
    """The YAML files that the text shows, by the name it gives them."""
    blocks = re.findall(r"`(\w+\.yaml)`:\n\n```yaml\n(.*?)^```", readme(bundle), re.MULTILINE | re.DOTALL)
    assert len(blocks) == readme(bundle).count("```yaml")
    return {name: yaml.safe_load(text) for name, text in blocks}


def config_of(bundle: str, files: Any) -> ConfigParser:
    """The configs of a command, merged; values of a file that the text shows are keys that exist."""
    names, shown = files if isinstance(files, list) else [files], files_shown(bundle)
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / bundle / name) for name in names if name not in shown])
    assert not [key for name in names for key in shown.get(name, {}) if key not in parser]
    return parser


@pytest.mark.parametrize("bundle", NAMES)
def test_commands_name_configs_and_keys_that_exist(bundle: str) -> None:
    given = list(commands(bundle))
    assert len(given) >= 8
    for options in given:
        assert not options.get("meta_file") or (BUNDLES / bundle / options["meta_file"]).exists()
        if "config_file" in options:
            parser = config_of(bundle, options.pop("config_file"))
            assert not [key for key in options.keys() - MONAI_OPTIONS if key not in parser]


@pytest.mark.parametrize("bundle", NAMES)
def test_the_site_file_names_configs_and_keys_that_exist(bundle: str) -> None:
    site = files_shown(bundle)["my_site.yaml"]
    parser = config_of(bundle, site.pop("config_file"))
    assert not [key for key in site if key not in parser]


@pytest.mark.parametrize("bundle", NAMES)
def test_the_table_lists_every_overlay(bundle: str) -> None:
    files = {path.name for path in (BUNDLES / bundle / "configs").glob("*.yaml")} - {"train.yaml", "inference.yaml"}
    rows = [line for line in readme(bundle).splitlines() if line.startswith("| `") and ".yaml`" in line]
    listed = {name for row in rows for name in re.findall(r"`(\w+\.yaml)`", row.split("|")[1])}
    assert listed == files
