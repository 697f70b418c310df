# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The findings of the data check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from monai_essa.outside import printable

__all__ = ["Problem", "joined"]


@dataclass(frozen=True)
class Problem:
    """Something wrong, or worth a look, in a datalist.

    Attributes:
        severity: ``error`` makes training fail or its result wrong; ``warning`` may be meant so.
        file: as the datalist names it, or the datalist itself.
        key: ``image``, ``label``, or the section.
        problem: what was expected and what was found.
        advice: what to do.
        others: further files of which the same is true.
    """

    severity: Literal["error", "warning"]
    file: str
    key: str
    problem: str
    advice: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = f" and {len(self.others)} more {'file' if len(self.others) == 1 else 'files'}" if self.others else ""
        return printable(f"{self.severity}: {self.file}{more} ({self.key}): {self.problem}; {self.advice}")


def joined(problems: Iterable[Problem]) -> list[Problem]:
    """Join the problems of labels that are the same but for the file: 28 files with one wrong id are one line.

    Args:
        problems: in the order of the files.

    Returns:
        The problems, each at the place of its first file.
    """
    kept: dict[object, Problem] = {}
    for number, problem in enumerate(problems):
        same = (problem.severity, problem.problem, problem.advice) if problem.key == "label" else number
        first = kept.setdefault(same, problem)
        if first is not problem:
            kept[same] = replace(first, others=(*first.others, problem.file))
    return list(kept.values())
