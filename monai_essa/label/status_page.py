# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The page ``/status`` of the server: studies, adapters and training. It loads nothing from the internet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask

from monai_essa.label.store import SSA
from monai_essa.label.tasks.processes import task_in_progress

__all__ = ["status_page", "status_router"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="10"><title>MONAI Label: {name}</title>
<style>
body {{font: 15px/1.5 sans-serif; max-width: 56em; margin: 2em auto; padding: 0 1em}}
table {{border-collapse: collapse; margin-bottom: 1em}}
td, th {{border: 1px solid #bbb; padding: .2em .8em; text-align: left}}
pre {{background: #f3f3f3; padding: .8em; overflow-x: auto; font-size: 12px}}
</style></head>
<body>
<h1>{name} {version}</h1>
<p>{description}. Research software, not a medical device.</p>
<h2>Studies</h2>
<p>{completed} of {total} volumes have a label.</p>
{problems}
{models}
<h2>Training</h2>
{training}
<p>As text: <a href="/info/">what a client is told</a>, <a href="/logs/?text=true">the server's log</a>. In 3D Slicer:
module <em>MONAI Label</em>, with the address of this page without <code>/status</code>.</p>
</body></html>
"""
_COLUMNS = ("adapter", "version", "learned from", "epochs", "seconds", "Dice", "")


def status_router() -> APIRouter:
    """Return a router with the page, for the users who may see ``/info/``."""
    router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])

    @router.get("/status", response_class=HTMLResponse, summary="Studies, adapters and training")
    def status() -> str:
        return status_page(app_instance().info(), task_in_progress("train") or AsyncTask.status("train")[0])

    return router


def status_page(info: Mapping[str, Any], task: Mapping[str, Any] | None) -> str:
    """Write the page.

    Args:
        info: what ``/info/`` returns.
        task: MONAI Label's record of the running training or else of the last one; None if there was none since the
            server was started.

    Returns:
        HTML that loads nothing from elsewhere.
    """
    text = {name: escape(str(info[name])) for name in ("name", "version", "description")}
    counts = {name: info["datastore"][name] for name in ("completed", "total")}
    models = "".join(_model(name, info["train_stats"].get(name, {})) for name in info["models"])
    problems = _problems(info["datastore"].get("problems", ()))
    return _PAGE.format(**text, **counts, problems=problems, models=models, training=_training(task))


def _model(name: str, stats: Mapping[str, Any]) -> str:
    adapters: Mapping[str, Sequence[Mapping[str, Any]]] = stats.get("adapters", {})
    rows = [_row(site, entry, versions) for site, versions in adapters.items() for entry in reversed(versions)]
    none = "<p>No adapter yet: inference is the bundle's own.</p>"
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    table = f"<table><tr>{head}</tr>{''.join(rows)}</table>" if rows else none
    return f"<h2>{escape(name)}</h2>{table}{_problems(stats.get('problems', ()))}"


def _problems(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _row(site: str, entry: Mapping[str, Any], versions: Sequence[Mapping[str, Any]]) -> str:
    source = f"{entry['labels']} labels" if "labels" in entry else "unknown"
    if entry.get("stage") == SSA:
        source = f"{entry.get('images', 'unknown')} volumes without labels (SSA)"
    known = [entry.get(name, "") for name in ("epochs", "seconds", "dice")]
    cells = (site, entry["version"], source, *known, _use(entry, versions))
    return f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"


def _use(entry: Mapping[str, Any], versions: Sequence[Mapping[str, Any]]) -> str:
    """Return what a version is used for."""
    usable = [other for other in versions if other.get("promoted", True) and not other.get("damaged", False)]
    labelled = [other for other in usable if other.get("stage") != SSA]
    if entry.get("damaged", False):
        return "missing or damaged, passed over"
    if not entry.get("promoted", True):
        held_out = entry["held_out"]
        scores = "Dice {dice} on {volumes} held-out volumes, {before} before".format(**held_out)
        return f"kept, not used: {scores}"
    if labelled and entry is labelled[-1]:
        return "segments"
    return "the next training starts here" if entry is usable[-1] and entry not in labelled else ""


def _training(task: Mapping[str, Any] | None) -> str:
    if task is None:
        return "<p>None since the server was started.</p>"
    lines = escape("\n".join(task.get("details", ())))
    when = f"{task['request'].get('model')}, begun {task['start_ts']}, ended {task.get('end_ts', 'not yet')}"
    return f"<p><strong>{escape(task['status'])}</strong>: {escape(when)}</p><pre>{lines}</pre>"
