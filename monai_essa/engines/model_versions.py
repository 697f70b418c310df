# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""A bundle that is trained again and again, by MONAI Label say: a run folder and a version of model.pt each time."""

from __future__ import annotations

import shutil
from pathlib import Path

from monai_essa.files import written_whole

__all__ = ["next_run_folder", "publish_model"]


def next_run_folder(folder: str | Path) -> Path:
    """Name a run folder that does not exist: ``001``, ``002`` and so on.

    Args:
        folder: where the runs are.

    Returns:
        The path; it is not made.

    Example:
        >>> import tempfile
        >>> next_run_folder(tempfile.mkdtemp()).name
        '001'
    """
    numbers = [int(path.name) for path in Path(folder).glob("[0-9][0-9][0-9]*") if path.name.isdigit()]
    return Path(folder) / f"{max(numbers, default=0) + 1:03d}"


def publish_model(run: str | Path, models: str | Path) -> Path:
    """Make a finished run's model.pt the bundle's, and keep every earlier one beside it.

    ``model_000.pt`` is what was there before the first run, ``model_001.pt`` the result of run ``001``. To undo a
    run, copy an earlier one over ``model.pt``, or choose it as ``model_filename`` in MONAI Label.

    Args:
        run: folder of the run.
        models: the bundle's folder ``models``.

    Returns:
        The new ``model.pt``.

    Raises:
        FileNotFoundError: if the run has no model.pt.
    """
    run, models = Path(run), Path(models)
    result, current, first = run / "model.pt", models / "model.pt", models / "model_000.pt"
    if not result.is_file():
        raise FileNotFoundError(
            f"{run} has no model.pt to publish: its method cannot be merged; train with method_apla.yaml or another "
            "that can"
        )
    models.mkdir(parents=True, exist_ok=True)
    if current.is_file() and not first.exists():
        _copy(current, first)
    _copy(result, models / f"model_{run.name}.pt")
    return _copy(result, current)


def _copy(source: Path, target: Path) -> Path:
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)  # without its time: a server takes a newer file for a new model
    return target
