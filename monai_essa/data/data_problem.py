# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""One finding of the data check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """Something wrong, or worth a look, in a datalist.

    Attributes:
        severity: ``error`` makes training fail or its result wrong; ``warning`` may be meant so.
        file: as the datalist names it, or the datalist itself.
        key: ``image``, ``label``, or the section.
        problem: what was expected and what was found.
        advice: what to do.
    """

    severity: Literal["error", "warning"]
    file: str
    key: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.file} ({self.key}): {self.problem}; {self.advice}"
