# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""What the server answers to requests that it refuses, in this process."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

MODEL = "ball_segmentation"
SSA = f"{MODEL}_ssa"


def tasks() -> int:
    from monailabel.utils.async_tasks import utils

    return sum(len(utils.tasks(method)) for method in ("train", "scoring", "batch_infer"))


def infer(http: Any, image: str = "case_00", model: str = MODEL, **values: Any) -> Any:
    return http.post(f"/infer/{model}?image={image}&output=json", data={"params": json.dumps(values)})


def test_code_in_a_request_starts_nothing(http: Any, tmp_path: Path) -> None:
    mark, before = tmp_path / "mark", tasks()
    code = f"$__import__('pathlib').Path({str(mark)!r}).touch() or 'cpu'"
    answers = [
        *(http.post(f"/train/{model}", json={"device": code}) for model in (MODEL, SSA)),
        http.post(f"/train/{MODEL}?run_sync=true", json={"device": code}),
        http.post("/train/", json={MODEL: {"device": code}}),
        http.post(f"/batch/infer/{MODEL}", json={"device": code}),
        http.post("/scoring/epistemic", json={"device": code}),
        http.post("/scoring/", json={"epistemic": {"device": code}}),
        http.post("/activelearning/first", json={"labels": [code]}),
        infer(http, device=code),
        infer(http, device=[code]),
        infer(http, roi=[code]),
    ]
    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert "expected" in answer.json()["detail"] or "is code to MONAI" in answer.json()["detail"]
    assert tasks() == before
    assert not mark.exists()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("POST", f"/train/{MODEL}", {"output_dir": "/x"}, 400, "unknown field 'output_dir'"),
        ("POST", f"/train/{MODEL}", {"max_epochs": 0}, 400, "max_epochs"),
        ("POST", f"/train/{MODEL}", {"undo": True}, 400, "nothing to undo"),
        ("POST", f"/train/{MODEL}", {"adapter": "base"}, 400, "expected another name"),
        ("POST", f"/train/{MODEL}", [1], 400, "expected a JSON object"),
        ("POST", "/train/no_such", {}, 404, "expected one of"),
        ("POST", "/train/", {"no_such": {}}, 400, "unknown field 'no_such'"),
        ("POST", "/train/", {MODEL: 3}, 400, "expected a mapping"),
        ("POST", "/scoring/no_such", {}, 404, "expected one of epistemic"),
        ("POST", "/activelearning/no_such", {}, 404, "expected one of first"),
        ("POST", f"/activelearning/{'x' * 300}", {}, 400, "at most 256"),
        ("POST", "/batch/infer/no_such", {}, 404, f"expected one of {MODEL}"),
        ("POST", f"/infer/wsi/{MODEL}?image=case_00", {}, 400, "no whole slides"),
        ("GET", "/datastore/image/info?image=no_such", None, 404, "no such image"),
        ("GET", "/datastore/label/info?label=case_00&tag=final", None, 404, "has no label"),
        ("GET", f"/datastore/image?image={'x' * 3000}", None, 400, "at most 256"),
        ("DELETE", "/datastore/image?id=no_such", None, 404, "no such image"),
        ("DELETE", "/datastore/image?id=../x", None, 400, "plain name"),
        ("DELETE", "/datastore/label?id=case_00&tag=final", None, 404, "has no label"),
        ("GET", "/datastore/dataset", None, 404, "nothing to pack"),
        ("GET", "/model/info/no_such", None, 404, f"expected one of {MODEL}"),
        ("GET", "/session/no_such", None, 404, "Not Found"),
    ],
)
def test_a_refusal_says_why(http: Any, method: str, path: str, body: Any, status: int, reason: str) -> None:
    answer = http.request(method, path, json=body)
    assert (answer.status_code, reason in answer.json()["detail"]) == (status, True), answer.text


def test_every_inference_that_cannot_be_is_answered_with_the_reason(http: Any, studies: Path) -> None:
    known = [
        (infer(http, "no_such"), 404, "no such image"),
        (infer(http, "x" * 201), 400, "at most 200 characters"),
        (infer(http, "../case_00"), 400, "plain name"),
        (infer(http, model="no_such"), 404, f"expected one of {MODEL}"),
        (infer(http, adapter="no_such"), 404, "expected one of latest, base"),
        (infer(http, result_extension="/../../x.nii"), 400, "result_extension"),
        (infer(http, image_path="/etc/hostname"), 400, "unknown field 'image_path'"),
        (http.post(f"/infer/{MODEL}?image=case_00", data={"params": "[1]"}), 400, "expected a JSON object"),
        (http.post(f"/infer/{MODEL}?image=case_00", data={"params": "{"}), 400, "expected JSON"),
        (http.put("/datastore/image/info?image=case_00", data={"info": "null"}), 400, "expected a JSON object"),
        (
            http.post(f"/infer/{MODEL}", files={"file": ("/x/..", b"1")}, data={"params": "{}"}),
            400,
            "expected a file whose name",
        ),
    ]
    for answer, status, reason in known:
        assert (answer.status_code, reason in answer.json()["detail"]) == (status, True), answer.text
    uploaded = http.post(f"/infer/{MODEL}", files={"file": ("/home/a/x.nii", b"no image")}, data={"params": "{}"})
    assert uploaded.status_code == 422
    assert "cannot be read as an image" in uploaded.json()["detail"]


def test_another_web_page_is_refused_and_a_told_one_is_not(http: Any) -> None:
    evil, told = {"origin": "https://evil.example"}, {"origin": "https://label.example.org"}
    ask = {"access-control-request-method": "POST"}
    for headers in (evil, evil | {"content-type": "text/plain"}, told):
        assert http.post("/activelearning/first", headers=headers, content=b"{}").status_code == 403
    asked = http.options("/train/", headers=evil | ask)
    assert asked.status_code == 403
    assert "access-control-allow-origin" not in asked.headers

    from monailabel.app import app as server

    from monai_essa.label.server import guard

    guard(server, (told["origin"],))
    assert http.options("/train/", headers=told | ask).headers["access-control-allow-origin"] == told["origin"]
    assert http.post("/activelearning/first", headers=told, json={}).json()["id"] == "case_00"
    assert http.post("/activelearning/first", headers=evil, json={}).status_code == 403


@pytest.mark.slow  # waits for a training to begin in another process
def test_of_two_trainings_at_once_one_runs_and_ends_with_the_server(datastore: Any, http: Any) -> None:
    ask = {"adapter": "site_a", "max_epochs": 1000}
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: http.post(f"/train/{MODEL}", json=ask), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429, 429]
    assert http.post("/train/", json={}).status_code == 429
    waiting = http.post(f"/train/{SSA}?enqueue=true", json={})
    assert waiting.json()["status"] == "SUBMITTED"

    from monailabel.utils.async_tasks import utils

    while not utils.processes("train"):
        time.sleep(0.1)
    (process,) = (psutil.Process(each.pid) for each in utils.processes("train").values())
    page = http.get("/status").text
    assert f"<strong>RUNNING</strong>: {MODEL}, begun" in page  # not the one that waits
    assert SSA not in page.partition("<h2>Training</h2>")[2]

    http.__exit__(None, None, None)  # the server's lifespan ends
    deadline = time.monotonic() + 20
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {task["status"] for task in utils.tasks("train")[-2:]} == {"STOPPED"}
    assert not utils.processes("train")
    http.__enter__()  # for the fixture to end it
