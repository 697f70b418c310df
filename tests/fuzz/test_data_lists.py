# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Data lists of unknown origin: a report, items or facts that hold no code, or one line that names the list."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from monai_essa.data import check_datalist, load_datalist, unlabelled_items
from monai_essa.data.lists.read import listed_label_map, listed_patients
from monai_essa.outside import check_config_value
from monai_essa.planning.choices import Choice
from monai_essa.planning.run import plan_text
from monai_essa.planning.site import site_facts
from tests.fuzz.hostile_values import Draw, damaged, edited, texts
from tests.fuzz.profiles import assert_one_line, guarded, inputs

ITEMS = [{"image": f"p{number}.nii.gz", "label": f"p{number}_seg.nii.gz"} for number in range(3)]
LISTS: tuple[dict[str, Any], ...] = (
    {
        "name": "spleen",
        "description": "CT of the abdomen\nin two lines",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "numTraining": 2,
        "training": ITEMS[:2],
        "validation": ITEMS[2:],
        "test": ["p0.nii.gz"],
    },
    {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "label_map": {"255": 1},
        "training": [{**item, "patient": f"p{number}", "fold": number % 2} for number, item in enumerate(ITEMS)],
        "unlabeled": [{"image": ["p0.nii.gz", "p1.nii.gz"]}, {"image": ["p2.nii.gz", "p0.nii.gz"]}],
    },
    {"source": {"training": ITEMS[:1], "validation": ITEMS[1:]}, "training": [{"image": "p0.nii.gz", "label": 1}]},
)
READERS: tuple[Callable[[Path], Any], ...] = (
    load_datalist,
    lambda path: load_datalist(path, ["training[fold!=0]", "validation"]),
    lambda path: load_datalist(path, "source#training", limit=1),
    unlabelled_items,
    listed_patients,
    listed_label_map,
)


def list_file(draw: Draw) -> bytes:
    good = LISTS[draw(st.integers(0, len(LISTS) - 1))]
    if draw(st.integers(0, 5)) == 0:
        return damaged(draw, json.dumps(good).encode())
    text = json.dumps(edited(draw, good), ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass")


@pytest.fixture
def listed(scratch: Path) -> Path:
    """Where the list goes, beside three tiny scans with their label maps."""
    rng = np.random.default_rng(0)
    for item in ITEMS:
        voxels = rng.integers(-1000, 1000, (6, 5, 4), dtype=np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), scratch / item["image"])
        nib.save(nib.Nifti1Image((voxels > 0).astype(np.uint8), np.diag([1.0, 1.0, 2.0, 1.0])), scratch / item["label"])
    return scratch / "dataset.json"


def assert_plain(value: Any) -> None:
    """No part of a value that goes into a configuration means more to MONAI than what it is."""
    check_config_value(value, "an item")
    parser = ConfigParser({"held": value})
    assert parser.get_parsed_content("held") == value


@inputs(100)
@given(data=st.data())
def test_the_check_reports_or_refuses(data: st.DataObject, listed: Path) -> None:
    listed.write_bytes(list_file(data.draw))
    before = {path.name for path in listed.parent.iterdir()}
    with guarded():
        try:
            check = check_datalist(listed)
        except (ValueError, FileNotFoundError) as error:
            assert_one_line(error, listed.name)
        else:
            assert all(str(problem).isprintable() for problem in check.problems)
            assert all(line.isprintable() for line in check.summary)
    assert {path.name for path in listed.parent.iterdir()} == before


@inputs(100)
@given(data=st.data())
def test_items_are_plain_or_refused(data: st.DataObject, listed: Path) -> None:
    listed.write_bytes(list_file(data.draw))
    read = READERS[data.draw(st.integers(0, len(READERS) - 1))]
    with guarded():
        try:
            found = read(listed)
        except (ValueError, FileNotFoundError) as error:
            assert_one_line(error, listed.name)
        else:
            for item in found if isinstance(found, list) else []:
                assert_plain(item)
                assert Path(item["image"][0] if isinstance(item["image"], list) else item["image"]).is_absolute()


@inputs(40)
@given(data=st.data())
def test_any_name_of_a_section_is_found_or_refused(data: st.DataObject, listed: Path) -> None:
    listed.write_text(json.dumps(LISTS[1]), encoding="utf-8")
    section = data.draw(texts() | st.sampled_from(["training[fold=1]", "training[fold=9]", "#", "::", "unlabeled"]))
    with guarded():
        try:
            assert load_datalist(listed, section, ("image",))
        except (ValueError, FileNotFoundError) as error:
            assert_one_line(error, listed.name)


@inputs(60)
@given(data=st.data())
def test_a_plan_holds_facts_and_no_code(data: st.DataObject, listed: Path) -> None:
    listed.write_bytes(list_file(data.draw))
    with guarded():
        try:
            facts = site_facts(listed)
        except (ValueError, FileNotFoundError) as error:
            assert_one_line(error, listed.parent.name)
            return
        values = {
            "labels": dict(facts.classes),
            "modality": facts.modality,
            "spacing": list(facts.spacing),
            "datalist": str(facts.datalist),
        }
        assert_plain(values)
        text = plan_text([], {key: Choice(value, facts.modality_reason) for key, value in values.items()})
        assert yaml.safe_load(text) == {"config_file": []} | values
        assert len(text.splitlines()) == 1 + len(values)
