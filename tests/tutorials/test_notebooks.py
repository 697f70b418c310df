# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The tutorials run, and their notebooks are those of their scripts, with outputs that a reader may see."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "tutorials"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|tmp|root|work|Users|usr|opt)/")
HOURS = "0.1"  # for the study of the quick start: its own 0.02 are too short where other tests run
SECONDS = 1500  # 90 on two idle cores; here it ends what hangs, on slow machines too


def load_maker():
    spec = importlib.util.spec_from_file_location("notebooks", FOLDER / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN_HERE = [path.stem for path in load_maker().scripts(label=False)]  # tests/label runs the others


def committed(stem):
    return nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)


def outputs_of(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts_of(output):
    yield output.get("text", "")
    yield from (value for kind, value in output.get("data", {}).items() if kind.startswith("text/"))


def write_script(path, code):
    path.write_text(f"# Copyright (c) The monai_essa authors\n# of all\n\n# %% [markdown]\n# # Title\n\n# %%\n{code}\n")
    return path


@pytest.mark.full
@pytest.mark.slow  # a minute and more each; tests/docs/test_shown_names.py checks what they import and call
@pytest.mark.parametrize("stem", RUN_HERE)
def test_script_runs_in_a_fresh_folder_without_data(stem, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "DATA"}
    environment |= {"MPLBACKEND": "Agg", "TMPDIR": str(tmp_path), "HOURS": HOURS}
    command = [sys.executable, str(FOLDER / f"{stem}.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("stem", SCRIPTS)
def test_notebook_has_the_cells_of_its_script(stem):
    expected, found = load_maker().notebook_of(FOLDER / f"{stem}.py"), committed(stem)
    assert [(cell.id, cell.cell_type, cell.source) for cell in found.cells] == [
        (cell.id, cell.cell_type, cell.source) for cell in expected.cells
    ], "make tutorials"
    assert found.metadata == expected.metadata


@pytest.mark.parametrize("stem", SCRIPTS)
def test_notebook_shows_figures_and_nothing_of_the_machine(stem):
    outputs = outputs_of(committed(stem))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert all(output.get("name") != "stderr" and output.get("execution_count") is None for output in outputs)
    texts = [text for output in outputs for text in texts_of(output)]
    assert any(text.strip() for text in texts)
    assert not [text for text in texts if MACHINE_PATH.search(text) or "Warning" in text or "Traceback" in text]


@pytest.mark.parametrize("stem", SCRIPTS)
def test_tutorial_names_its_data_and_licence(stem):
    text = "\n".join(cell.source for cell in committed(stem).cells if cell.cell_type == "markdown")
    assert "**Data.**" in text and "MNI152" in text and "Copyright (C) 1993-2004 Louis Collins" in text
    assert "not a medical device" in text


def test_the_quick_start_is_one_command_that_goes_on_after_a_kill_and_what_it_exports_needs_no_monai_essa():
    cells = [cell for cell in committed("1_quick_start").cells if cell.cell_type == "code"]
    shown = {cell.source: "".join(output.get("text", "") for output in cell.outputs) for cell in cells}
    (killed,) = (text for source, text in shown.items() if "process.kill()" in source)
    (went_on,) = (text for source, text in shown.items() if "unchanged:" in source)
    (used,) = (text for source, text in shown.items() if source.startswith("code = "))
    assert killed.startswith("killed after") and "unchanged: True" in went_on
    assert "All keys matched" in used and "monai_essa was imported: False" in used


def test_execution_keeps_what_was_shown_and_drops_what_changes(tmp_path):
    maker = load_maker()
    code = "import sys\n\nprint('seen')\nprint('bar', file=sys.stderr)\nprint('too')\n1 + 1"
    notebook = maker.executed(maker.notebook_of(write_script(tmp_path / "1_one.py", code)))
    markdown, cell = notebook.cells
    assert markdown.source == "# Title"  # and no licence before it
    stream, result = cell.outputs
    assert stream.text == "seen\ntoo\n" and result.data["text/plain"] == "2"
    assert cell.execution_count is None and result.execution_count is None and not cell.metadata
    nbformat.validate(notebook)


def test_a_failing_cell_stops_the_making(tmp_path):
    maker = load_maker()
    with pytest.raises(Exception, match="no such scan"):
        maker.executed(maker.notebook_of(write_script(tmp_path / "1_one.py", "raise ValueError('no such scan')")))
