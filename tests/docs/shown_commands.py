# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The blocks that a page shows, and how a test runs them: in this process, small networks, one epoch."""

from __future__ import annotations

import logging
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from monai_essa.cli import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "hidden_size": "hidden_size: 24",
    "mlp_dim": "mlp_dim: 48",
    "num_heads": "num_heads: 4",
    "feature_size": "feature_size: 4",
}
SMALL_VALUES = "hidden_size=24 mlp_dim=48 num_heads=4"
SMALL_COPY = f"{SMALL_VALUES} img_size=[32,32,32]"
SMALL_UNETR = "img_size=(32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=48, num_heads=4"

# What no test of the pages runs, by how the line begins, and why.
NOT_RUN = {
    "pip ": "changes the environment of the tests",
    "python3 -m venv ": "makes an environment: .ci/run does so by make",
    "essa-env/bin/pip ": "installs from the network",
    "make ": "runs this suite, or is run by .ci/run beside it",
    ".venv/bin/ruff format": "rewrites the sources; make lint checks them",
    "monai-essa demo": "tests/demo/test_run.py runs it",
    "monai-essa weights probe vit_b.pt": "needs 20 patients with labels: tests/evaluation/test_probe_scans.py runs it",
    "monai-essa adapt scans": "hours: tests/study/test_run.py runs small ones",
}


def blocks(page: str, language: str, after: str = "# ", before: str | None = None) -> list[str]:
    """The blocks of a page between two headings."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = text[text.index(after) : None if before is None else text.index(before)]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def short(command: str) -> str:
    """One epoch, a network of a few thousand parameters, all else as shown."""
    command = re.sub(r"--(max_epochs|val_interval) \d+", r"--\1 1", command)
    for name, value in SMALL.items():
        command = re.sub(rf"^{name}: \d+$", value, command, flags=re.MULTILINE)
    command = re.sub(r"^num_layers: \d+$", "num_layers: 2", command, flags=re.MULTILINE)
    command = re.sub(r"^max_epochs: \d+$", "max_epochs: 1", command, flags=re.MULTILINE)
    command = re.sub(r"^img_size: \[96, 96, 96\]", "img_size: [32, 32, 32]", command, flags=re.MULTILINE)
    return re.sub(r"--(samples_per_epoch|limit) \d\d+", r"--\1 8", command)


def short_line(line: str) -> str:
    """The same for a command that names no sizes: it is given small ones by its own options."""
    if line.startswith("monai-essa cost"):
        line = line.replace("vit_b", "vit_s").replace("--size 96", "--size 32")
        return re.sub(r"--methods \S+", "--methods full,apla --lean fast", line)
    line = line.replace("1,1,96,96,96", "1,1,32,32,32")
    if line.startswith("monai-essa plan"):
        return f"{line.replace('--hours 8', '--hours 0.01')} --args {SMALL_VALUES}"
    if line.startswith("monai-essa bundles copy") and "--network segresnet" in line:
        return f"{line} --args img_size=[32,32,32]"
    if line.startswith("monai-essa bundles copy"):
        feature_size = "" if re.search("copy essa_(ssa|tpp)", line) else " feature_size=4"
        return f"{line}{'' if '--args' in line else ' --args'} {SMALL_COPY}{feature_size}"
    trains = "bundle run " in line and ("--args_file" in line or "train.yaml" in line) and "--max_epochs" not in line
    return f"{line} --max_epochs 1 --val_interval 1" if trains else line


def short_python(code: str) -> str:
    """The same for Python."""
    code = code.replace("img_size=(96, 96, 96)", SMALL_UNETR).replace(
        "(96, 96, 96), 16", "(32, 32, 32), 16, 24, 48, 12, 4"
    )
    return code.replace("96, 96, 96", "32, 32, 32").replace("columns=128", "columns=8")


def run_page(page: str, folder: Path) -> None:
    """Write the files that a page shows with a title, and run its commands and its Python, from top to bottom."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.findall(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    for _, title, block in shown:
        if title:
            (folder / title).write_text(short(block), encoding="utf-8")
    names: dict[str, object] = {}
    for language, title, block in shown:
        if language == "bash":
            run_short(block, folder, folder)
        elif language == "python" and not title:
            with _inside(folder, folder):
                exec(compile(short_python(block), page, "exec"), names)


def run_short(script: str, data: Path, folder: Path) -> None:
    """Run the lines of a bash block, $DATA being the folder of the data."""
    script = re.sub(
        r"^cat > (\S+) <<END\n(.*?)^END\n", _write(data, folder), short(script), flags=re.DOTALL | re.MULTILINE
    )
    with _inside(folder, data):
        for line in filter(None, map(str.strip, script.replace("\\\n", " ").splitlines())):
            if not line.startswith(("#", *NOT_RUN)):
                _run_line(short_line(line))


def run_line(line: str, folder: Path) -> None:
    """Run one command as it stands, in a folder."""
    with _inside(folder, folder):
        _run_line(line)


def _run_line(line: str) -> None:
    words = shlex.split(os.path.expandvars(line), comments=True)
    if words[0] == "monai-essa":
        assert "--version" in words or main(words[1:]) == 0, line
    elif words[:3] == ["python", "-m", "monai.bundle"]:
        with mock.patch.object(sys, "argv", words[2:]):
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=False)
    else:
        raise AssertionError(f"no test runs the line {line!r}: run it here, or say in NOT_RUN why not")


@contextmanager
def _inside(folder: Path, data: Path) -> Iterator[None]:
    """In the folder, as a shell would be, with logging as it was afterwards."""
    here, root = Path.cwd(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    os.chdir(folder)
    try:
        with mock.patch.dict(os.environ, DATA=str(data)), mock.patch.object(sys, "path", [str(folder), *sys.path]):
            yield
    finally:
        os.chdir(here)
        root.handlers[:] = handlers
        root.setLevel(level)


def _write(data: Path, folder: Path):
    def write(match: re.Match[str]) -> str:
        (folder / match[1]).write_text(match[2].replace("$DATA", str(data)), encoding="utf-8")
        return ""

    return write
