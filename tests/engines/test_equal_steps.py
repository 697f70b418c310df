# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""As many steps more as an earlier run took."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_essa.engines import extra_epochs, finish_run, open_run


@pytest.fixture
def tpp(tmp_path: Path) -> Path:
    open_run(tmp_path / "tpp", {"lr": 1.0e-3}, {"training": []}, seed=0)
    finish_run(tmp_path / "tpp", iterations=10)
    return tmp_path / "tpp"


@pytest.mark.parametrize(("samples", "batch_size", "epochs"), [(10, 1, 1), (9, 1, 2), (4, 2, 5), (3, 2, 5), (5, 2, 4)])
def test_steps_are_rounded_up_to_whole_epochs(tpp: Path, samples: int, batch_size: int, epochs: int) -> None:
    steps_of_an_epoch = -(-samples // batch_size)
    assert (epochs - 1) * steps_of_an_epoch < 10 <= epochs * steps_of_an_epoch
    assert extra_epochs(tpp, samples, batch_size) == epochs


def test_without_the_control_there_is_no_epoch_more() -> None:
    assert extra_epochs(None, 4, 2, start="adapter") == 0


def test_a_run_that_starts_from_the_adapter_is_no_control(tpp: Path) -> None:
    with pytest.raises(ValueError, match="equal_steps is the control of a run that does not start from .*: set start"):
        extra_epochs(tpp, 4, 2, start="adapter")
