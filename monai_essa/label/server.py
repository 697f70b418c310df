# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""The server around the app: it answers known web pages only, and checks each request before MONAI Label sees it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    infer,
    model,
    scoring,
    session,
    train,
    wsi_infer,
)
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from monailabel.interfaces.utils.app import app_instance
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from monai_essa.label.status_page import status_router
from monai_essa.label.tasks.processes import task_in_progress
from monai_essa.outside import Text, shown

__all__ = ["OriginGuard", "checked_origins", "guard"]

_TEXT = Text(longest=256)
_FILE_NAME = re.compile(r"([^\x00-\x1f\x7f]{0,4000}[/\\])?[^/\\\x00-\x1f\x7f]{1,200}")  # clients send the whole path
_LONGEST_JSON = 1_000_000
_JSON_FIELDS = ("params", "info", "wsi")  # of a form
_YES = ("true", "1", "on", "yes", "t", "y")
_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")


def guard(server: FastAPI, origins: Collection[str]) -> None:
    """Put our checks before the endpoints of a server that is starting.

    MONAI Label builds the list of middleware before it hands the server to an app, so the list is built again.

    Args:
        server: the server of MONAI Label.
        origins: the origins of other web pages that may talk to it.
    """
    if not getattr(server.state, "guarded", False):
        server.state.guarded = True
        _put_first(server)
        server.add_exception_handler(MONAILabelException, _answer)
    server.state.one_decides = asyncio.Lock()
    others = [entry for entry in server.user_middleware if entry.cls not in (CORSMiddleware, OriginGuard)]
    cors = Middleware(
        CORSMiddleware, allow_origins=list(origins), allow_credentials=True, allow_methods=["*"], allow_headers=["*"]
    )
    server.user_middleware[:] = [Middleware(OriginGuard, origins=origins), *([cors] if origins else []), *others]
    server.middleware_stack = server.build_middleware_stack()


def checked_origins(origins: Collection[str]) -> tuple[str, ...]:
    """Return origins in the form in which browsers send them.

    Raises:
        ValueError: if one is not an origin, such as ``*`` or an address with a path.

    Example:
        >>> checked_origins(["https://Label.example.org/"])
        ('https://label.example.org',)
    """
    cleaned = [origin.strip().rstrip("/").lower() for origin in origins]
    for origin in cleaned:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"origin {origin!r}: expected one such as https://label.example.org, without a path")
    return tuple(cleaned)


class OriginGuard:
    """Refuses, with status 403, what a browser sends on behalf of another web page.

    A page of another origin can send simple requests without asking first. If its own host name resolves to this
    computer, its requests even look like those of the server's page. So the ``Origin`` must be the server's own or a
    known one, a request without it must not be marked as cross-site, and the ``Host`` must be an address, a name of the
    local network or a known name. Clients other than browsers send neither ``Origin`` nor such a mark.

    Args:
        app: the application that answers the other requests.
        origins: the origins of allowed pages, as :func:`checked_origins` returns them.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = ()) -> None:
        self.app = app
        self.origins = origins
        names = [urlsplit(origin).hostname or "" for origin in origins]
        self.names = {*names, socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse(refusal, status_code=403)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", "").lower(), headers.get("origin", "").lower()
        told = "start the server with --origin to allow it"
        if not self._is_local(host):
            return f"host {host!r} is not known: {told} (--origin http://{host})"
        if origin and origin not in self.origins and not _is_same(origin, host):
            return f"origin {origin!r} is another web page: {told} (--origin {origin})"
        if not origin and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            opened = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
            return None if opened else f"the request comes from another web page: {told}"
        return None

    def _is_local(self, host: str) -> bool:
        """Return whether a host name can be trusted to mean this server; a public name must be a known one."""
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".") if _is_authority(host) else None
        if name is None:
            return False
        return "." not in name.removesuffix(".localhost") or name in self.names or _is_address(name)


def _put_first(server: FastAPI) -> None:
    """Include MONAI Label's routers a second time, with the checks as dependencies, before the existing routes."""
    there = list(server.router.routes)
    checks: list[tuple[APIRouter, Callable[..., Any]]] = [
        (train.router, _train_request),
        (infer.router, _infer_request),
        (wsi_infer.router, _whole_slide_request),
        (batch_infer.router, _infer_request),
        (scoring.router, _scoring_request),
        (activelearning.router, _strategy_request),
        (datastore.router, _any_request),
        (session.router, _any_request),
        (model.router, _model_request),
    ]
    server.include_router(status_router())
    for router, check in checks:
        prefix = settings.MONAI_LABEL_API_STR
        server.include_router(router, prefix=prefix, dependencies=[Depends(check)], include_in_schema=False)
    before = {id(route) for route in there}
    server.router.routes[:] = [*(route for route in server.router.routes if id(route) not in before), *there]


async def _answer(request: Request, error: Exception) -> JSONResponse:
    """Answer a refusal by MONAI Label with a fitting status, in place of its "Internal Server Error"."""
    unknown = isinstance(error, (ImageNotFoundException, LabelNotFoundException))
    refused = isinstance(error, MONAILabelException) and error.error == MONAILabelError.INVALID_INPUT
    message = getattr(error, "msg", str(error))
    return JSONResponse({"detail": message}, status_code=404 if unknown else 400 if refused else 500)


async def _any_request(request: Request) -> dict[str, Any]:
    """Check what every request has, and return the JSON of its body or of its form.

    Raises:
        HTTPException: with status 400 for text that is too long or not printable, a file name that is not printable or
            longer than 200 characters, and JSON that is not an object.
    """
    with _refusing():
        for place in (request.path_params, request.query_params):
            for name, value in place.items():
                _TEXT.check(value, shown(name))
        if request.headers.get("content-type", "").startswith(("multipart/", "application/x-www-form")):
            return _form_values(await request.form())
        body = await request.body()
        return {} if body.strip() in (b"", b"null") else _json_object(body, "body")


async def _train_request(request: Request) -> AsyncIterator[None]:
    """Check the request of a training; a lock ensures that only one request at a time looks for a running one."""
    values = await _any_request(request)
    if request.method != "POST":
        yield
        return
    with _refusing():
        app_instance().check_training(request.path_params.get("model"), values)
    async with request.app.state.one_decides:
        waits = request.query_params.get("enqueue", "").lower() in _YES
        if not waits and task_in_progress("train") is not None:
            raise HTTPException(429, "a training is running or waits to already; stop it, or send enqueue=true")
        yield


async def _infer_request(request: Request) -> None:
    values = await _any_request(request)
    if request.method != "POST":
        return
    session_id = request.query_params.get("session_id")
    if session_id and app_instance().sessions().get_session(session_id) is None:
        raise HTTPException(404, f"session {shown(session_id)}: there is none of that id, or its time is over")
    with _refusing():
        app_instance().check_inference(request.path_params["model"], values)


async def _whole_slide_request(request: Request) -> None:
    raise HTTPException(400, "this app segments volumes, no whole slides: POST to /infer/MODEL")


async def _scoring_request(request: Request) -> None:
    values = await _any_request(request)
    if request.method == "POST":
        with _refusing():
            app_instance().check_scoring(request.path_params.get("method"), values)


async def _strategy_request(request: Request) -> None:
    values = await _any_request(request)
    with _refusing():
        app_instance().check_strategy(request.path_params["strategy"], values)


async def _model_request(request: Request) -> None:
    await _any_request(request)
    app_instance().check_model(request.path_params["model"])


def _form_values(form: FormData) -> dict[str, Any]:
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and not _is_file_name(value.filename):
            raise ValueError(f"{shown(name)}: expected a file whose name has at most 200 printable characters")
    fields = {name: form.get(name) for name in _JSON_FIELDS}
    found = [_json_object(text, name) for name, text in fields.items() if isinstance(text, str) and text]
    return found[0] if found else {}


def _is_file_name(name: str | None) -> bool:
    return not name or (_FILE_NAME.fullmatch(name) is not None and re.split(r"[/\\]", name)[-1].strip(".") != "")


def _json_object(text: str | bytes, where: str) -> dict[str, Any]:
    if len(text) > _LONGEST_JSON:
        raise ValueError(f"{where}: expected at most {_LONGEST_JSON} characters of JSON, got {len(text)}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON, got {shown(text)}") from error
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected a JSON object, got {shown(value)}")
    return dict(value)


@contextmanager
def _refusing() -> Iterator[None]:
    """Answer with status 400 what a check refuses within the block."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(400, str(error)) from error


def _is_authority(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").port is not False and "/" not in host and "@" not in host
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_same(origin: str, host: str) -> bool:
    """Compare with the address of the request; behind a proxy that speaks TLS the schemes differ."""
    return origin.partition("://")[2] == host
