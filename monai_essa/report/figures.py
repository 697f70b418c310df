# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What all figures share: width, text size, colours and the way to bytes. Needs matplotlib.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color), which readers with any colour vision tell
apart. Figures are matplotlib objects without pyplot: no backend is chosen and no state is left behind.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "TEXT_SIZE", "WIDTH", "blank_figure", "figure_png"]

WIDTH = 7.2  # inches
TEXT_SIZE = 9  # points
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")

_DPI = 150


def blank_figure(height: float) -> Figure:
    """Start a figure of the common width.

    Args:
        height: in inches.

    Returns:
        A figure without axes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures are drawn by matplotlib: pip install "monai_essa[report]"') from error
    return Figure(figsize=(WIDTH, height), layout="constrained")


def figure_png(figure: Figure) -> bytes:
    """Render a figure.

    Args:
        figure: any matplotlib figure.

    Returns:
        The bytes of a PNG file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()
