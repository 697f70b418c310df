# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.tasks.training import split_labelled


def items(count: int) -> list[dict[str, str]]:
    return [{"image": f"/studies/case_{n}.nii.gz", "label": f"/studies/labels/case_{n}.nii.gz"} for n in range(count)]


@pytest.mark.parametrize(("count", "share", "validating"), [(2, 0.2, 1), (3, 0.2, 1), (10, 0.3, 3), (2, 0.99, 1)])
def test_both_sides_have_volumes_and_share_none(count: int, share: float, validating: int) -> None:
    training, validation = split_labelled(items(count), share)
    assert len(validation) == validating
    assert sorted([*training, *validation], key=str) == sorted(items(count), key=str)


@pytest.mark.parametrize(("count", "share"), [(1, 0.2), (4, 0.0)])
def test_without_a_side_of_its_own_the_training_volumes_validate(count: int, share: float, caplog) -> None:
    training, validation = split_labelled(items(count), share)
    assert len(training) == count
    assert training == validation
    assert "says nothing of others" in caplog.text


def test_the_order_of_the_labels_changes_nothing() -> None:
    assert split_labelled(items(9), 0.3) == split_labelled(items(9)[::-1], 0.3)


def test_no_labels_and_a_wrong_share_are_refused() -> None:
    with pytest.raises(ValueError, match="no labels: submit at least one"):
        split_labelled([], 0.2)
    for share in (-1, 1.0, 20):
        with pytest.raises(ValueError, match="val_split must be"):
            split_labelled(items(3), share)
