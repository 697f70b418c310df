# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


"""Requests drawn by a fixed seed: each one is answered, none runs code, leaves the studies or ends in a traceback."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

REQUESTS = 600
FIELDS = """device adapter max_epochs val_split samples_per_epoch pretrained undo model name gpus image label labels
label_tag result_extension result_dtype session images strategy method bogus client_id info _id logging roi slice ball
timeout description ts epistemic_entropy epistemic_unreadable save_label max_batch_size multi_gpu""".split()
IDS = ["case_00", "case_01", "no_such", "../x", "%2e%2e", "x" * 300, "a%00b", "$x", "@x", "", ".", "..%2f..%2fx", "é"]
NAMES = ["x.nii.gz", "x", "../x.nii.gz", "a" * 300 + ".nii", "datastore_v2.json", ".hidden.nii", "meta.info", ".."]


class Requests:
    """Draws requests and sends them."""

    def __init__(self, http: Any, image: bytes, code: str) -> None:
        self.http, self.image, self.code = http, image, code
        self.draw = random.Random(0)

    def value(self) -> Any:
        atoms = [
            None,
            True,
            False,
            0,
            -1,
            1e308,
            2**70,
            0.5,
            "",
            "cpu",
            "cuda",
            "all",
            "final",
            "case_00",
            [],
            {},
            [[]],
        ]
        harmful = [self.code, [self.code], {"a": self.code}, {"_target_": "os.system"}, "@x", "%x", "../../x", "\ud800"]
        return self.draw.choice([*atoms, *harmful, "x" * 5000, "\x00", "/etc/passwd", "a\nb"])

    def body(self) -> str:
        fields = {self.draw.choice(FIELDS): self.value() for _ in range(self.draw.randrange(1, 4))}
        return json.dumps(self.draw.choice([fields, fields, {"ball_segmentation": fields}, self.value() or [1]]))

    def upload(self) -> tuple[str, bytes]:
        return self.draw.choice(NAMES), self.draw.choice([b"", b"junk", self.image])

    def send(self) -> Any:
        one, tag = self.draw.choice(IDS), self.draw.choice([*IDS, "final", "original"])
        name = self.draw.choice(["ball_segmentation", "ball_segmentation_ssa", "epistemic", "first", one or "x"])
        post: dict[str, Any] = {"content": self.body(), "headers": {"content-type": "application/json"}}
        form: dict[str, Any] = {"data": {"params": self.body(), "info": self.body()}}
        http, upload = self.http, self.upload()
        calls: list[Callable[[], Any]] = [
            lambda: http.post(f"/train/{name}", **post),
            lambda: http.post("/train/", **post),
            lambda: http.post(f"/scoring/{name}", **post),
            lambda: http.post(f"/activelearning/{name}", **post),
            lambda: http.post(f"/batch/infer/{name}?images={one}", **post),
            lambda: http.post(f"/infer/{name}?image={one}", **form),
            lambda: http.put(f"/datastore/image/info?image={one}", **form),
            lambda: http.put(f"/datastore/label/info?label={one}&tag={tag}", **form),
            lambda: http.put(f"/datastore/label?image={one}&tag={tag}", files={"label": upload}, **form),
            lambda: http.put(f"/datastore/image?image={one}", files={"file": upload}, **form),
            lambda: http.put("/session/?uncompress=true", files={"files": upload}),
            lambda: http.get(f"/datastore/image/info?image={one}"),
            lambda: http.get(f"/datastore/label?label={one}&tag={tag}"),
            lambda: http.delete(f"/datastore/label?id={one}&tag={tag}"),
            lambda: http.get(f"/session/{one or 'x'}"),
        ]
        return self.draw.choice(calls)()


def test_no_request_ends_in_a_traceback_or_runs_code(
    datastore: Any, http: Any, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def start(request: dict[str, Any], method: str) -> dict[str, Any]:
        started.append(json.dumps(request, default=str))
        return {"id": method, "status": "DONE", "request": request}

    monkeypatch.setattr("monailabel.utils.async_tasks.task.run_background_task", start)  # not a process for each
    mark = tmp_path / "mark"
    requests = Requests(
        http, (studies / "case_01.nii.gz").read_bytes(), f"$__import__('pathlib').Path({str(mark)!r}).touch()"
    )
    answers = [requests.send() for _ in range(REQUESTS)]
    failed = [
        (answer.request.method, str(answer.request.url), answer.text) for answer in answers if answer.is_server_error
    ]
    assert not failed
    assert {200, 400, 404} <= {answer.status_code for answer in answers}
    assert not mark.exists()
    assert not any("$__import__" in request or "_target_" in request for request in started)
    kept = {"datastore_v2.json", "labels", *(f"case_{number:02d}.nii.gz" for number in range(6))}
    assert {path.name for path in studies.iterdir()} - {".lock", "no_such.nii.gz", "é.nii.gz", "x.nii.gz"} <= kept
    assert list((tmp_path / "uploads").iterdir()) == []
