# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Requests of unknown origin: what a check lets through is plain, and the server answers the rest with a 4xx."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from hypothesis import given
from hypothesis import strategies as st

from monai_essa.label.requests import infer_record, info_record, scoring_record, strategy_record, train_record
from monai_essa.label.tasks.ssa import UnlabelledStage
from monai_essa.label.tasks.training import LabelledStage
from monai_essa.outside import Check, check_config_value
from tests.fuzz.hostile_values import Draw, damaged, edited, texts, values
from tests.fuzz.profiles import assert_one_line, guarded, inputs

MODEL = "ball_segmentation"
TRAIN = {**LabelledStage.options, "device": "cpu", "adapter": "default", "undo": False, "client_id": "c", "gpus": "all"}
TRAIN |= {"name": "t", "dataset_limit": 0, "dataset_max_region": "10240,10240", "logging": "INFO", "description": "x"}
INFER = {
    "device": ["cpu"],
    "adapter": "latest",
    "result_extension": ".nrrd",
    "result_dtype": "uint8",
    "roi": [0, 9, 0, 9],
}
INFER |= {"foreground": [[1, 2, 3]], "label": "ball", "label_info": [{"name": "ball", "idx": 1}], "images": ["case_00"]}
SCORING = {"method": "epistemic", "gpus": "0,1", "labels": ["ball"], "y": "final", "num_samples": 2}
STRATEGY = {"strategy": "first", "client_id": None, "labels": ["ball"], "max_samples": 3}
CHECKS: tuple[tuple[Check, dict[str, Any]], ...] = (
    (train_record(LabelledStage.checks), TRAIN),
    (train_record(UnlabelledStage.checks), {**UnlabelledStage.options, "device": "cuda", "adapter": ["a"]}),
    (infer_record(["device", "adapter", "threshold"], ["ball"]), INFER),
    (scoring_record(), SCORING),
    (strategy_record(), STRATEGY),
)


@inputs(100)
@given(data=st.data())
def test_what_a_check_lets_through_is_plain(data: st.DataObject) -> None:
    check, good = CHECKS[data.draw(st.integers(0, len(CHECKS) - 1))]
    request = edited(data.draw, {name: good[name] for name in data.draw(st.permutations(sorted(good)))[:4]})
    with guarded():
        try:
            checked = check.check(request, "request")
        except ValueError as error:
            assert_one_line(error)
        else:
            checked.pop("description", None)  # MONAI Label's own, which no configuration gets
            check_config_value({name.lstrip("_"): value for name, value in checked.items()}, "request")
            json.dumps(checked, allow_nan=False)


@inputs(30)
@given(notes=st.dictionaries(texts(), values(), max_size=3))
def test_notes_are_json_under_plain_names(notes: dict[str, Any]) -> None:
    with guarded():
        try:
            checked = info_record().check(notes, "info")
        except ValueError as error:
            assert_one_line(error)
        else:
            json.dumps(checked, allow_nan=False)
            assert all(name.isascii() and name.isprintable() and "/" not in name for name in checked)


def body(draw: Draw, good: dict[str, Any]) -> bytes:
    """The text of a request that is wrong in one place at least."""
    hostile = edited(draw, good, most=2)
    hostile = (hostile if isinstance(hostile, dict) else {"x": hostile}) | {"no_such_field": 1}
    text = json.dumps(hostile).encode()
    changed = damaged(draw, text, 60) if draw(st.integers(0, 5)) == 0 else text
    return changed if changed.strip() not in (b"", b"{}", b"null") else b"["  # without fields, a task would start


def train(http: Any, draw: Draw) -> Any:
    name = draw(st.sampled_from([MODEL, f"{MODEL}_ssa", "other", "..%2f", "%00", "$x"]))
    return http.post(f"/train/{name}", content=body(draw, TRAIN), headers={"content-type": "application/json"})


def train_all(http: Any, draw: Draw) -> Any:
    content = json.dumps({MODEL: {"no_such_field": draw(values())}, draw(texts()): draw(values())})
    return http.post("/train/", content=content, headers={"content-type": "application/json"})


def infer(http: Any, draw: Draw) -> Any:
    image = draw(texts() | st.just("case_00")).encode("utf-8", "replace").decode()
    form = {"params": body(draw, INFER).decode("latin-1")}
    return http.post(f"/infer/{MODEL}", params={"image": image, "output": "json"}, data=form)


def scoring(http: Any, draw: Draw) -> Any:
    return http.post("/scoring/epistemic", content=body(draw, SCORING), headers={"content-type": "application/json"})


def strategy(http: Any, draw: Draw) -> Any:
    return http.post(
        "/activelearning/first", content=body(draw, STRATEGY), headers={"content-type": "application/json"}
    )


def batch(http: Any, draw: Draw) -> Any:
    return http.post(f"/batch/infer/{MODEL}", content=body(draw, INFER), headers={"content-type": "application/json"})


def image(http: Any, draw: Draw) -> Any:
    name = draw(texts().filter(bool)).encode("utf-8", "replace").decode()
    return http.get(draw(st.sampled_from(["/datastore/image", "/datastore/image/info"])), params={"image": name})


def label(http: Any, draw: Draw) -> Any:
    form = {"params": body(draw, {"label_info": []}).decode("latin-1")}
    name = draw(texts()).encode("utf-8", "replace").decode()
    return http.put("/datastore/label", params={"image": name}, data=form, files={"label": ("x.nii.gz", b"no label")})


def session(http: Any, draw: Draw) -> Any:
    content = damaged(draw, b"PK\x03\x04" + bytes(40))
    name = draw(st.sampled_from(["../x.nii.gz", "x.nii.gz", "a.zip", "/etc/x", "$x"]))
    return http.put("/session/", params={"uncompress": "true"}, files={"files": (name, content)})


ENDPOINTS: tuple[Callable[[Any, Draw], Any], ...] = (
    *(train, train_all, infer, scoring, strategy, batch, image, label, session),
)


def tasks() -> int:
    from monailabel.utils.async_tasks import utils

    return sum(len(utils.tasks(method)) for method in ("train", "scoring", "batch_infer"))


def studied(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*.nii.gz")}


@inputs(50)
@given(data=st.data())
def test_a_wrong_request_is_answered_with_its_reason(data: st.DataObject, http: Any, studies: Path) -> None:
    before, images = tasks(), studied(studies)
    with guarded():
        answer = ENDPOINTS[data.draw(st.integers(0, len(ENDPOINTS) - 1))](http, data.draw)
    assert 400 <= answer.status_code < 500, answer.text
    assert_one_line(ValueError(json.dumps(answer.json()["detail"])))
    assert tasks() == before and studied(studies) == images
