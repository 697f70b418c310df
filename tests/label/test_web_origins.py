# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0


from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs the extra [label], in an environment of its own")

from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from monai_essa.label.server import OriginGuard, checked_origins

KNOWN = "https://label.example.org"


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("done"), methods=["GET", "POST", "OPTIONS"])])
    return TestClient(OriginGuard(app, (KNOWN,)), base_url="http://127.0.0.1:8000")


@pytest.mark.parametrize(
    "headers",
    [
        {},  # no browser
        {"origin": "http://127.0.0.1:8000"},
        {"origin": KNOWN},
        {"origin": KNOWN, "sec-fetch-site": "cross-site"},
        {"host": "localhost:8000", "origin": "http://localhost:8000"},
        {"host": "[::1]:8000"},
        {"host": "10.1.2.3:8000"},
        {"host": "label", "origin": "https://label"},  # through a proxy of the local network
        {"host": "label.example.org", "origin": KNOWN},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_clients_and_the_servers_own_pages_pass(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/", headers=headers).text == "done"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},  # another program of this computer
        {"origin": "http://127.0.0.1"},
        {"origin": f"{KNOWN}.evil.example"},
        {"origin": "https://evil.example", "content-type": "text/plain"},  # a simple request: no pre-flight
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "evil.example:8000", "origin": "http://evil.example:8000"},  # a name that was bound again
        {"host": "evil.example:8000"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "evil.example@127.0.0.1"},
        {"host": "127.0.0.1:port"},
    ],
)
def test_other_pages_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    for method in ("POST", "GET", "OPTIONS", "DELETE"):
        answer = client.request(method, "/", headers=headers)
        assert answer.status_code == 403
        assert "--origin" in answer.text
        assert "access-control-allow-origin" not in answer.headers


def test_a_link_from_another_page_opens_ours(client: TestClient) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=link).text == "done"
    assert client.post("/", headers=link).status_code == 403


@pytest.mark.parametrize("origin", ["*", "https://a.example/path", "a.example", "file://x", "https://a b", "$x"])
def test_what_is_no_origin_is_refused(origin: Any) -> None:
    with pytest.raises(ValueError, match="expected one such as"):
        checked_origins([origin])
