# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Makes the notebooks of the tutorials: `make tutorials`, or `python tutorials/notebooks.py 1_quick_start.py`.

Without names it makes those that its environment is for: with MONAI Label the one that needs it, else the others.

The percent scripts are the source. Each is executed top to bottom in a fresh folder; what it showed goes into the
notebook beside it. Nothing that changes from run to run is kept, so that a second call leaves no
difference; another kind of CPU may round to other third digits.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

__all__ = ["LABEL", "executed", "main", "notebook_of", "scripts"]

FOLDER = Path(__file__).resolve().parent
LABEL = ("6_monai_label",)  # need the environment of `make test-label`
_LICENCE = "# Copyright (c) The monai_essa authors"
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_SECONDS_OF_A_CELL = 600
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # sums in one order, hence the same digits


def scripts(label: bool) -> list[Path]:
    """List the percent scripts, whose names begin with a number: those that need MONAI Label, or the others."""
    return [path for path in sorted(FOLDER.glob("[0-9]*.py")) if (path.stem in LABEL) == label]


def notebook_of(script: Path) -> NotebookNode:
    """Turn a percent script into a notebook without outputs: fixed cell ids, and the licence header left out."""
    read = jupytext.read(script, fmt="py:percent")
    cells = [cell for cell in read.cells if not cell.source.startswith(_LICENCE)]
    for number, cell in enumerate(cells, start=1):
        cell.id, cell.metadata = f"cell-{number}", NotebookNode()
    metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def executed(notebook: NotebookNode) -> NotebookNode:
    """Run a notebook in a fresh folder and keep what a reader wants to see.

    Progress bars and the warnings of libraries go to standard error, which is left out.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=_SECONDS_OF_A_CELL, resources=place, coalesce_streams=True)
        client.execute(env=os.environ | {"TMPDIR": folder})
    notebook.metadata["language_info"] = {"name": "python"}  # the kernel adds its version
    for cell in notebook.cells:
        cell.metadata = NotebookNode()  # times
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    return notebook


def main(names: list[str]) -> None:
    """Make the notebooks of the scripts of these names, or of all that this environment is for."""
    os.environ.update(_ONE_THREAD)
    os.environ.pop("DATA", None)  # the committed outputs are of the demo cohort
    label = importlib.util.find_spec("monailabel") is not None
    for script in [FOLDER / name for name in names] or scripts(label):
        print(script.name)
        nbformat.write(executed(notebook_of(script)), script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
