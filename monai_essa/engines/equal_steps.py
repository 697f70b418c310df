# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The control of a stage before: as many training steps more, without that stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_essa.engines.run_folder import run_iterations

__all__ = ["extra_epochs"]


def extra_epochs(
    run: str | Path | None, samples: int | None, batch_size: int, start: str = "encoder", items: Sequence[Any] = ()
) -> int:
    """Count the epochs of this run that take the steps of an earlier run, rounded up.

    A network that target parameter pre-training (arXiv 2408.15011) prepared has taken more steps on the same images;
    a run without it that trains on for as many steps shows whether more steps are all that it was.

    Args:
        run: folder of the finished run of that stage; None: no such control, no epoch more.
        samples: of an epoch of this run; None: each of the items once.
        batch_size: of this run.
        start: of this run: an adapter file would bring what the earlier run learned.
        items: that this run trains on.

    Returns:
        Epochs to add.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ValueError: if that run is not finished, or the start is ``"adapter"``.

    Example:
        >>> import tempfile
        >>> from monai_essa.engines import finish_run, open_run
        >>> tpp = open_run(tempfile.mkdtemp(), {"lr": 1.0e-3}, {"training": []}, seed=0).folder
        >>> finish_run(tpp, iterations=101)
        >>> extra_epochs(tpp, samples=8, batch_size=2)
        26
    """
    if run is None:
        return 0
    if start == "adapter":
        raise ValueError(f"equal_steps is the control of a run that does not start from {run}: set start: encoder")
    return math.ceil(run_iterations(run) / math.ceil((samples or len(items)) / batch_size))
