# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from monai_essa.label import EssaLabelApp


def test_an_image_that_cannot_be_read_does_not_end_the_batch(app: Path, studies: Path) -> None:
    for number in (2, 3, 4, 5):
        (studies / f"case_{number:02d}.nii.gz").unlink()
    (studies / "case_00.nii.gz").write_text("no image")
    served = EssaLabelApp(str(app), str(studies), {})
    sent = {"device": "cuda", "multi_gpu": True, "gpus": "all", "label_tag": "original", "max_workers": 1}
    result = served.batch_infer({"model": "ball_segmentation", "images": "all"} | sent)
    assert "cannot be read as an image" in result["case_00"]["error"]
    assert result["case_01"]["params"]["adapter"] == "base"
    assert [path.name for path in (studies / "labels" / "original").iterdir()] == ["case_01.nii.gz"]
