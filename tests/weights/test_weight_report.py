# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""How a report reads."""

from __future__ import annotations

import json

from monai_essa.weights.report import TensorEntry, WeightReport

REPORT = WeightReport(
    file="model.pt",
    sha256="0123456789abcdef",
    key_map="monai",
    prefix="module.",
    matched=(TensorEntry("norm.weight", "module.norm.weight", 1000), TensorEntry("norm.bias", "module.norm.bias", 500)),
    renamed=(),
    inflated=(),
    interpolated=(),
    skipped=tuple(TensorEntry(f"head.{i}", f"head.{i}", 2, "a head") for i in range(3))
    + tuple(TensorEntry(f"x{i}", f"x{i}", 1, f"reason {i}") for i in range(4)),
    folded=(),
    missing=(TensorEntry("out.weight", "", 7, "not in the file"),),
    accepted=(),
    encoder_share=0.96,
    notes=("the head keeps the values that it had in 1 of 1 tensors",),
)


def test_the_text_counts_tensors_and_values_and_gives_reasons_with_an_example() -> None:
    head, matched, skipped, missing, note = str(REPORT).splitlines()
    assert head == "model.pt (sha256 0123456789ab, keys 'monai', prefix 'module.'): 96.0% of the encoder loaded"
    assert matched.split() == ["matched", "2", "tensors", "1,500", "values"]
    assert "7 tensors" in skipped
    assert "a head (3, e.g. head.0); reason 0 (x0); reason 1 (x1); and 2 more" in skipped
    assert missing.endswith("not in the file (out.weight)")
    assert note == "  note: the head keeps the values that it had in 1 of 1 tensors"


def test_what_was_loaded_is_named() -> None:
    assert REPORT.loaded == {"norm.weight", "norm.bias"}


def test_an_almost_complete_encoder_is_not_called_complete() -> None:
    text = str(WeightReport(**{**vars(REPORT), "encoder_share": 0.99999}))
    assert "100.0%" not in text
    assert "99.9%" in text


def test_the_report_goes_through_json() -> None:
    read = json.loads(json.dumps(REPORT.as_dict()))
    assert read["missing"] == [{"name": "out.weight", "source": "", "elements": 7, "reason": "not in the file"}]
    assert read["encoder_share"] == 0.96
    assert read["preprocessing"] is None
