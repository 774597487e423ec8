"""A Bulk Data server on this machine, over real HTTP, that can be told to misbehave."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from jwcrypto import jwk, jwt

from ehr_tl.fetch import exporter

TIME = "2026-02-03T04:05:06Z"
CLIENT = "ehr-tl-test"


class Answer(NamedTuple):
    """An answer out of turn. `body` of a type other than bytes is sent as JSON; `breaks`: short, reset or silent."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = MappingProxyType({})
    breaks: str | None = None


class Asked(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


class BulkServer:
    """What the server holds and how it behaves.

    Attributes:
        files: Name -> NDJSON; `Type...` goes to the output, `error/...` and `deleted/...` to these lists.
        out_of_turn: Path -> answers that are given before the usual one, one at each request.
        pending: How many times the state is told as 202.
        secure: Whether a token is asked for.
        uses: How often a token is good; then, and when the next is given, it has run out.
        discoverable: Whether the token endpoint is named.
        file_token: The manifest's `requiresAccessToken`.
        counted: Whether the manifest tells counts.
        pages: How many pages the manifest is told in.
        asked: All requests, in order.
        secrets: All tokens and client assertions that were in use.
        scopes: As asked for.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.out_of_turn: dict[str, list[Answer]] = defaultdict(list)
        self.pending, self.retry_after, self.secure, self.uses = 0, "0", True, 10**6
        self.discoverable, self.file_token, self.counted, self.pages, self.version = True, True, True, 1, "4.0.1"
        self.asked: list[Asked] = []
        self.secrets: list[str] = []
        self.scopes: list[str] = []
        self.plain_token: str | None = None
        self.removed = False
        self.private = jwk.JWK.generate(kty="EC", crv="P-384")
        self.registered = {self.private.thumbprint(): jwk.JWK.from_json(self.private.export_public())}
        self._left: dict[str, int] = {}
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_side": self}))
        self._http.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._http.server_port}"
        self.url = f"{self.root}/fhir"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def paths(self, method: str = "GET") -> list[str]:
        return [each.path for each in self.asked if each.method == method]

    # --- answers ------------------------------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            if self.out_of_turn[asked.path]:
                return self.out_of_turn[asked.path].pop(0)
            if asked.path == "/fhir/metadata":
                return Answer(body={"resourceType": "CapabilityStatement", "fhirVersion": self.version})
            if asked.path == "/fhir/.well-known/smart-configuration":
                return Answer(body={"token_endpoint": f"{self.root}/token"}) if self.discoverable else Answer(404)
            if asked.path == "/token":
                return self._token(asked)
            open_file = asked.path.startswith("/files/") and not self.file_token
            if open_file and "Authorization" in asked.headers:
                return Answer(400, b"two ways in at once")
            if self.secure and not open_file and not self._admits(asked):
                return Answer(401, _outcome("error", "login", f"Not good: {asked.headers.get('Authorization')}"))
            return self._data(asked)

    def _data(self, asked: Asked) -> Answer:
        if asked.path.endswith("/$export"):
            self.removed = False
            return Answer(202, headers={"Content-Location": f"{self.root}/status/1", "Set-Cookie": "session=cookie-1"})
        if asked.path == "/status/1" and asked.method == "DELETE":
            self.removed = True
            return Answer(202)
        if asked.path == "/status/1" and self.removed:
            return Answer(404, _outcome("error", "not-found", "No such export"))
        if asked.path == "/status/1" and self.pending:
            self.pending -= 1
            return Answer(202, headers={"Retry-After": self.retry_after, "X-Progress": "on its way"})
        if asked.path == "/status/1":
            return Answer(body=self._manifest(int(asked.query.get("page", ["0"])[0])))
        name = asked.path.removeprefix("/files/")
        return Answer(body=self.files[name]) if name in self.files else Answer(404)

    def _manifest(self, page: int) -> dict[str, Any]:
        lists: dict[str, list[dict[str, Any]]] = {"output": [], "error": [], "deleted": []}
        for name, content in list(self.files.items())[page :: self.pages]:
            kind, _, rest = name.rpartition("/")
            entry: dict[str, Any] = {"type": rest.split(".")[0], "url": f"{self.root}/files/{name}?signed=signature-1"}
            lists[kind or "output"].append(entry | ({"count": content.count(b"\n")} if self.counted else {}))
        more = page + 1 < self.pages
        link = {"link": [{"relation": "next", "url": f"{self.root}/status/1?page={page + 1}"}]} if more else {}
        return {"transactionTime": TIME, "request": "x", "requiresAccessToken": self.file_token, **lists, **link}

    def _admits(self, asked: Asked) -> bool:
        token = asked.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token == self.plain_token:
            return True
        if self._left.get(token, 0) < 1:
            return False
        self._left[token] -= 1
        return True

    def _token(self, asked: Asked) -> Answer:
        """Gives a token for a client assertion that is signed with a registered key, meant for here, fresh and new."""
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        assertion = form["client_assertion"]
        self.secrets.append(assertion)
        try:
            head = jwt.JWT(jwt=assertion)
            key = self.registered[head.token.jose_header["kid"]]
            claims = json.loads(jwt.JWT(jwt=assertion, key=key, algs=["ES384", "RS384"]).claims)
            assert claims["iss"] == claims["sub"] == CLIENT and claims["aud"] == f"{self.root}/token"
            assert time.time() < claims["exp"] <= time.time() + 300 and claims["jti"] not in self._seen
            assert form["grant_type"] == "client_credentials"
            assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        except Exception:
            return Answer(400, {"error": "invalid_client", "error_description": f"Not good: {assertion}"})
        self._seen.add(claims["jti"])
        self.scopes.append(form["scope"])
        token = f"opaque-{len(self.scopes)}-secret"
        self._left = {token: self.uses}  # an older one is good no more
        self.secrets.append(token)
        return Answer(body={"access_token": token, "token_type": "bearer", "expires_in": 300})


def _outcome(severity: str, code: str, diagnostics: str) -> dict[str, Any]:
    issue = {"severity": severity, "code": code, "diagnostics": diagnostics}
    return {"resourceType": "OperationOutcome", "text": {"div": "<p>narrative</p>"}, "issue": [issue]}


class _Handler(BaseHTTPRequestHandler):
    server_side: BulkServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, parts.path, parse_qs(parts.query), dict(self.headers), body)
        answer = self.server_side.answer(asked)
        with suppress(OSError):  # the other side may have been killed
            self._send(answer)

    do_POST = do_DELETE = do_GET

    def _send(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.breaks == "silent":  # the end of the connection is the end of the file: half of it looks like all
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not answer.breaks:
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.close_connection = True
        if answer.breaks == "reset":
            time.sleep(0.05)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[BulkServer]:
    made = BulkServer()
    yield made
    made.close()


@pytest.fixture
def key(server: BulkServer, tmp_path: Path) -> Path:
    """The client's private key, as the least that a JWK can say."""
    path = tmp_path / "key.jwk"
    path.write_text(server.private.export_private())
    return path


@pytest.fixture
def outcome():
    return _outcome


@pytest.fixture
def answer():
    return Answer


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another at once."""
    monkeypatch.setattr(exporter, "BROKEN_WAITS", (0, 0, 0, 0))
    logging.getLogger("ehr_tl").setLevel(logging.DEBUG)
