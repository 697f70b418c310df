# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""What shown Python takes from monai_essa, looked at without running it: names that exist, calls that bind."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any


def misfits(code: str) -> list[str]:
    """Return a line for each import of monai_essa that fails, and each call of what it brought that does not bind."""
    tree, brought, wrong = ast.parse(code), {}, []
    for module, name, local in _imports(tree):
        try:
            brought[local] = _found(module, name)
        except (ImportError, AttributeError) as error:
            wrong.append(str(error))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else None
        if name in brought and not _has_star(call):
            try:
                inspect.signature(brought[name]).bind(*call.args, **{str(word.arg): None for word in call.keywords})
            except TypeError as error:
                wrong.append(f"{name}: {error}")
    return wrong


def _imports(tree: ast.Module) -> Iterator[tuple[str, str | None, str]]:
    """Module, name and local name of each import of monai_essa."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "monai_essa":
            yield from ((str(node.module), alias.name, alias.asname or alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "monai_essa":
                    yield alias.name, None, alias.asname or alias.name


def _found(module: str, name: str | None) -> Any:
    owner = import_module(module)
    if name is None:
        return owner
    return getattr(owner, name) if hasattr(owner, name) else import_module(f"{module}.{name}")


def _has_star(call: ast.Call) -> bool:
    return any(isinstance(value, ast.Starred) for value in call.args) or any(word.arg is None for word in call.keywords)
