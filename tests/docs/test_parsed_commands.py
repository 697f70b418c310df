# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Every command of the pages parses: options that exist, config files that are there or shown, keys that they have.

The pages of the bundles have tests/bundles/test_docs.py for this; tests/docs/test_commands.py runs commands.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser

from monai_essa.cli import command_parser
from tests.docs.shown_commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Options of monai.bundle itself, and those of `ckpt_export`.
MONAI_OPTIONS = {"args_file", "config_file", "meta_file", "filepath", "ckpt_file", "use_trace", "input_shape"}


def lines(text: str) -> Iterator[list[str]]:
    """The words of each command of a page, here-documents left out."""
    for block in re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        block = re.sub(r"^cat > \S+ <<END\n.*?^END\n", "", block, flags=re.DOTALL | re.MULTILINE)
        yield from (shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines())


def shown_files(text: str) -> dict[str, dict[str, Any]]:
    """The YAML files that a page shows with a title or writes by `cat`."""
    shown = re.findall(r'^```yaml title="(.*?)"\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    shown += re.findall(r"^cat > (\S+\.yaml) <<END\n(.*?)^END\n", text, re.DOTALL | re.MULTILINE)
    return {name: yaml.safe_load(content) for name, content in shown}


def misfits(words: list[str], shown: dict[str, dict[str, Any]]) -> list[str]:
    """What a `python -m monai.bundle` command names that is not there: config files, and keys of them."""
    options = {word[2:]: value(words[place + 1]) for place, word in enumerate(words) if word.startswith("--")}
    given = {**shown.get(options.get("args_file", ""), {}), **options}
    files = given.get("config_file", [])
    files = files if isinstance(files, list) else [files]
    there = {name: path for name in files if (path := ROOT / "bundles" / name).exists()}
    wrong = [name for name in files if name not in there and name not in shown]
    if not there:  # `monai-essa plan` writes the file of arguments
        return wrong
    parser = ConfigParser()
    parser.read_config([str(path) for path in there.values()])
    own = {key for name in files for key in shown.get(name, {})} - keys_of_any_bundle()  # one file for several bundles
    return wrong + sorted(own | {key for key in given.keys() - MONAI_OPTIONS if key not in parser})


def with_copied_bundles(word: str, text: str) -> str:
    """The word with the names of bundles in the place of those that a page has given to its copies."""
    for bundle, name in re.findall(r"^monai-essa bundles copy (\w+) .*--name (\w+)", text, re.MULTILINE):
        word = word.replace(f"{name}/configs", f"{bundle}/configs")
    return word


@cache
def keys_of_any_bundle() -> set[str]:
    configs = sorted((ROOT / "bundles").glob("*/configs/train.yaml"))
    return {key for path in configs for key in yaml.safe_load(path.read_text(encoding="utf-8"))}


def value(text: str) -> Any:
    return ast.literal_eval(text) if text[0] in "[{" else text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_parses(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text(encoding="utf-8")
    for words in lines(text):
        if words[:1] == ["monai-essa"] and "--version" not in words:
            arguments, rest = command_parser().parse_known_args(words[1:])
            assert arguments.passes_on or not rest, words
        if words[:3] == ["python", "-m", "monai.bundle"]:
            assert misfits([with_copied_bundles(word, text) for word in words], shown_files(text)) == [], words


def test_what_is_not_there_is_found() -> None:
    train = "essa_ssa/configs/train.yaml"
    command = f"python -m monai.bundle run --config_file \"['{train}','own.yaml','gone.yaml']\" --lr 1 --lerning_rate 1"
    assert misfits(shlex.split(command), {"own.yaml": {"max_epochs": 1, "epochs": 1}}) == [
        *("gone.yaml", "epochs", "lerning_rate")
    ]
    with_file = "python -m monai.bundle run --args_file site.yaml"
    assert misfits(shlex.split(with_file), {"site.yaml": {"config_file": train, "dataset": "."}}) == ["dataset"]
