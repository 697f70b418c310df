# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label.requests import (
    Device,
    PlainValue,
    config_text,
    infer_record,
    info_record,
    scoring_record,
    strategy_record,
    train_record,
)
from monai_essa.label.tasks.ssa import UnlabelledStage
from monai_essa.label.tasks.training import LabelledStage
from monai_essa.outside import Record

CODE = "$__import__('pathlib').Path('x').touch() or 'cpu'"
TRAININGS = {stage: train_record(stage.checks) for stage in (LabelledStage, UnlabelledStage)}
RECORDS: list[Record] = [
    *TRAININGS.values(),
    infer_record(["device", "adapter", "threshold"], ["ball"]),
    strategy_record(),
    scoring_record(),
]
# What the clients of MONAI Label 0.8.5 send, from the sources of their plugins.
DEEPGROW = {"foreground": [[1, 2, 3]], "background": [], "label": "ball", "roi": [0, 9, 0, 9, 0, 9], "slice": 4}
SLICER = {"device": "cpu", "adapter": "latest", "result_extension": ".nrrd", "result_dtype": "uint8", "client_id": None}
OHIF = SLICER | {"result_dtype": "uint16", "result_compress": False, "restore_label_idx": False, "label_prompt": [1]}
BATCH = {"device": "cuda", "multi_gpu": True, "gpus": "all", "logging": "WARNING", "save_label": True}
DSA = {"name": "t", "dataset": "Dataset", "dataset_limit": 0, "dataset_max_region": "10240,10240", "val_split": 0.2}


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("code", [CODE, "@network", "%train.yaml", " $exit(1)", {"_target_": "os.system"}])
def test_code_is_a_value_of_no_field(record: Record, code: Any) -> None:
    for field in {*record.required, *record.optional} - {"description"}:  # it is MONAI Label's own
        with pytest.raises(ValueError, match=f"field '{field}'"):
            record.check({field: code}, "request")


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize(
    "name", ["bogus", "output_dir", "train#trainer", "_target_", "skip_writer", "pretrained_path", ""]
)
def test_an_unknown_field_is_refused(record: Record, name: str) -> None:
    with pytest.raises(ValueError, match="unknown field"):
        record.check({name: 1}, "request")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_epochs", [0, -1, 1.5, 1e9, "3", True, float("nan"), None]),
        ("val_split", [-0.1, 1.0, 20, "0.2", float("inf")]),
        ("pretrained", ["false", 1, None]),
        ("adapter", ["../x", "a b", "x" * 65, 3]),
        ("gpus", ["all; rm", "0,,1", -1]),
        ("undo", ["yes"]),
    ],
)
def test_a_training_is_told_only_what_it_can_be(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"field '{field}'"):
            TRAININGS[LabelledStage].check({field: value}, "training")


@pytest.mark.parametrize("value", ["/../../x.nii", ".nii/../x", ".exe"])
def test_an_extension_is_no_path(value: str) -> None:
    with pytest.raises(ValueError, match="result_extension"):
        RECORDS[2].check({"result_extension": value}, "inference")


def test_what_real_clients_send_is_taken() -> None:
    infer = RECORDS[2]
    for values in (SLICER, OHIF, SLICER | DEEPGROW, BATCH | {"label_tag": "original", "max_workers": 1}, {"ball": []}):
        assert set(infer.check(values, "inference")) == set(values)
    options = dict(LabelledStage.options) | {"device": "cpu", "adapter": "default", "undo": False, "client_id": "c"}
    for values in (options, DSA, {"model": "m", "local_rank": 0, "gpus": "all", "multi_gpu": True}):
        assert set(TRAININGS[LabelledStage].check(values, "training")) == set(values)
    assert scoring_record().check({"method": "epistemic", "gpus": "0,1"}, "scoring")["gpus"] == "0,1"
    assert strategy_record().check({"strategy": "first", "client_id": None, "labels": ["ball"]}, "s")["labels"] == [
        "ball"
    ]


def test_a_device_is_one_of_this_computer() -> None:
    assert Device().check(["cpu", "other"], "device") == "cpu"
    assert Device().check("cuda", "device") == "cuda"  # on a CPU it means the CPU, as in MONAI Label
    for value in ("cpu:0x", "tpu", "", [], None, 0, "cuda:"):
        with pytest.raises(ValueError, match="device: expected one of"):
            Device().check(value, "device")


def test_a_plain_value_has_no_code_in_any_part() -> None:
    assert PlainValue().check({"a": [1, "b", None]}, "roi") == {"a": [1, "b", None]}
    for value in ({"a": [CODE]}, {"$a": 1}, [["@x"]], "x" * 100_001, float("nan")):
        with pytest.raises(ValueError, match="roi"):
            PlainValue().check(value, "roi")


def test_notes_may_say_anything_under_a_plain_name() -> None:
    notes = {"label_info": [{"name": "$5 @home"}], "segmentationMeta": {"comment": "@anna: see slice 4"}}
    assert info_record().check(notes, "info") == notes
    for wrong in ({"../x": 1}, {"": 1}, [1], {"a": "x" * 100_001}, {"a": "\ud800"}):
        with pytest.raises(ValueError, match="info"):
            info_record().check(wrong, "info")


@pytest.mark.parametrize("path", ["$x.nii.gz", "@x", "%x", "/studies/a@#b.nii.gz", "/studies/%#x"])
def test_a_path_that_a_configuration_would_read_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="image"):
        config_text(path, "image")
    assert config_text("/studies/$x@y.nii.gz", "image") == "/studies/$x@y.nii.gz"
