# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Several studies on one page: means over the number of labels, and each study's verdict."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from monai_essa.report.study import write_efficiency_report
from tests.cli.conftest import monai_essa
from tests.report.study.test_study_report import text_of

__all__ = ["monai_essa"]


def with_labels(folder: Path, count: int, name: str, **changes: str) -> Path:
    """A copy of a study that was trained on another number of labels."""
    copy = shutil.copytree(folder, folder.with_name(name))
    plan = yaml.safe_load((copy / "plan.yaml").read_text(encoding="utf-8"))
    plan["protocol"] |= {"labels": count, **changes}
    (copy / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    return copy


def test_means_stand_by_number_of_labels(fabricated_study: Callable[..., Path], monai_essa: Callable) -> None:
    few = fabricated_study("segmentation")
    many = with_labels(few, 40, "many")
    given = monai_essa("report", many, few)
    page = few.parent / "report.html"
    assert (given.code, given.out) == (0, f"wrote {page}\n"), given.err
    text = text_of(page)
    mean = json.loads((few / "verdict.json").read_text(encoding="utf-8"))["arms"][0]["mean"]
    assert text.index("With 12 labelled patients") < text.index("With 40 labelled patients")
    assert text.count(f"{mean:.3f} (") >= 2 and page.read_text(encoding="utf-8").count("<img") == 1


def test_a_study_without_a_verdict_is_said_to_have_none(fabricated_study: Callable[..., Path], tmp_path: Path) -> None:
    folder = fabricated_study()
    (folder / "verdict.json").unlink()
    text = text_of(write_efficiency_report([folder, with_labels(folder, 40, "many")], tmp_path / "page.html"))
    assert text.count("There is no verdict yet.") == 2


def test_studies_of_two_metrics_are_refused(fabricated_study: Callable[..., Path], monai_essa: Callable) -> None:
    folder = fabricated_study()
    given = monai_essa("report", folder, with_labels(folder, 40, "many", metric="AUC"))
    assert given.code == 1 and "expected studies of one metric" in given.err


def test_runs_and_studies_do_not_mix(fabricated_study: Callable[..., Path], monai_essa: Callable) -> None:
    folder = fabricated_study()
    given = monai_essa("report", folder, folder / "runs" / "1-ssa")
    assert given.code == 1 and "got both" in given.err


@pytest.mark.parametrize("count", [None, "ten", 0])
def test_a_study_must_say_its_number_of_labels(count: object, fabricated_study: Callable[..., Path]) -> None:
    folder = fabricated_study()
    with pytest.raises(ValueError, match="expected the number of labelled patients"):
        write_efficiency_report([folder, with_labels(folder, count, "other")])  # type: ignore[arg-type]
