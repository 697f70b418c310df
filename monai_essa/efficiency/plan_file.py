# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The file of a plan: YAML for ``python -m monai.bundle run --args_file``, a reason in each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from monai_essa.efficiency.site_plan import Choice

__all__ = ["plan_text", "write_plan"]


def plan_text(config_files: Sequence[Choice], values: Mapping[str, Choice], introduction: Sequence[str] = ()) -> str:
    """Write a plan as YAML.

    Args:
        config_files: of the bundle, merged in order.
        values: over those of the configs, by key.
        introduction: lines of comment at the top.

    Returns:
        The text; it reads back as the values.

    Example:
        >>> print(plan_text([Choice("train.yaml", "for all")], {"batch_size": Choice(4, "fits")}), end="")
        config_file:
        - train.yaml # for all
        batch_size: 4 # fits
    """
    lines = [f"# {line}" for line in introduction]
    lines += ["config_file:", *(f"- {_inline(choice.value)} # {choice.reason}" for choice in config_files)]
    lines += [f"{key}: {_inline(choice.value)} # {choice.reason}" for key, choice in values.items()]
    return "\n".join(lines) + "\n"


def write_plan(path: Path, text: str) -> None:
    """Write a new file.

    Args:
        path: the file.
        text: its content.

    Raises:
        FileExistsError: if the file exists; it is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists; expected a new file: give another --out or move it away") from error


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()
