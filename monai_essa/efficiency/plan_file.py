# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The file of a plan: YAML for ``python -m monai.bundle run --args_file``, a reason in each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from monai_essa.efficiency.site_plan import Choice
from monai_essa.outside import printable
from monai_essa.yaml_text import commented, yaml_node, yaml_text

__all__ = ["plan_text", "write_plan"]


def plan_text(config_files: Sequence[Choice], values: Mapping[str, Choice], introduction: Sequence[str] = ()) -> str:
    """Write a plan as YAML.

    Args:
        config_files: of the bundle, merged in order.
        values: over those of the configs, by key.
        introduction: lines of comment at the top.

    Returns:
        The text; it reads back as the values.

    Raises:
        ValueError: if a value is of a kind that YAML does not hold.

    Example:
        >>> print(plan_text([Choice("train.yaml", "for all")], {"batch_size": Choice(4, "fits")}), end="")
        config_file:
        - train.yaml # for all
        batch_size: 4 # fits
    """
    document = CommentedMap()
    document["config_file"] = files = CommentedSeq(yaml_node(choice.value) for choice in config_files)
    for number, choice in enumerate(config_files):
        commented(files, number, choice.reason)
    for key, choice in values.items():
        document[key] = yaml_node(choice.value)
        commented(document, key, choice.reason)
    if introduction:
        document.yaml_set_start_comment("\n".join(map(printable, introduction)))
    return yaml_text(document)


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
