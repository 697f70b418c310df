# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What all figures share."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from monai_essa.report.charts import WIDTH, blank_figure, figure_png


def test_png_has_the_common_width() -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra [report]")
    first, second = (Image.open(io.BytesIO(figure_png(blank_figure(height)))) for height in (2.0, 3.0))

    assert first.format == "PNG"
    assert first.width == second.width == round(WIDTH * 200)
    assert (np.asarray(first.convert("L")) == 255).all()


def test_drawing_starts_no_pyplot() -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra [report]")
    before = "matplotlib.pyplot" in sys.modules
    figure_png(blank_figure(2.0))

    assert ("matplotlib.pyplot" in sys.modules) == before


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(ImportError, match=r'pip install "monai_essa\[report\]"'):
        blank_figure(2.0)
