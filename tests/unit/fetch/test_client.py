"""Who gets to see the access token, and that nothing goes over the network in the clear: without a network."""

from __future__ import annotations

import asyncio
from functools import partialmethod

import httpx
import pytest
from cumulus_fhir_support import RequestError

from ehr_tl.errors import FetchError
from ehr_tl.fetch.access import Access
from ehr_tl.fetch.client import Client

BASE = "https://fhir.example/r4"
OWN, OTHER, CLEAR = "https://fhir.example/files/1", "https://files.example/1", "http://files.example/1"
FILE = {"stream": True, "headers": {"Accept": "application/fhir+ndjson"}}
STATUS = {"headers": {"Accept": "application/json"}}


@pytest.fixture
def ask(monkeypatch):
    """Asks for a URL as a client of BASE; tells where requests went, and with which Authorization."""

    def asked(url: str, base: str = BASE, answers: dict[str, httpx.Response] | None = None, **settings):
        sent = []

        def handler(request: httpx.Request) -> httpx.Response:
            sent.append((str(request.url), request.headers.get("Authorization")))
            return (answers or {}).get(str(request.url)) or httpx.Response(200, json={"output": []})

        init = partialmethod(httpx.AsyncClient.__init__, transport=httpx.MockTransport(handler))
        with monkeypatch.context() as patch:
            patch.setattr(httpx.AsyncClient, "__init__", init)
            error = asyncio.run(run(url, base, dict(settings)))
        return [each for each in sent if not each[0].startswith(f"{base}/")], error

    async def run(url: str, base: str, settings: dict) -> FetchError | None:
        method = settings.pop("method", "GET")
        async with Client(base, (), Access.of(bearer_token="secret")) as client:
            try:
                await (await client.request(method, url, **settings)).aclose()
            except FetchError as error:
                return error

    return asked


@pytest.mark.parametrize(
    ("url", "token", "shown"),
    [
        (OWN, None, True),
        (OWN, True, True),
        (OWN, False, False),
        ("https://fhir.example:443/files/1", None, True),
        ("https://fhir.example:8443/files/1", None, False),
        ("https://fhir.example.evil.example/files/1", None, False),
        (OTHER, None, False),
        (OTHER, True, True),
        (OTHER, False, False),
    ],
)
def test_the_token_is_shown_to_the_server_itself_and_where_its_manifest_asks_for_it(ask, url, token, shown):
    [(_, authorization)], error = ask(url, token=token, **FILE)
    assert (authorization, error) == ("Bearer secret" if shown else None, None)


@pytest.mark.parametrize(("url", "shown"), [("https://fhir.example/status/1", True), (OTHER, False)])
def test_the_state_and_further_pages_are_asked_for_with_it_at_the_server_itself(ask, url, shown):
    [(_, authorization)], error = ask(url, **STATUS)
    assert (authorization, error) == ("Bearer secret" if shown else None, None)


@pytest.mark.parametrize("settings", [FILE, FILE | {"token": True}, STATUS])
def test_an_encrypted_server_names_no_address_in_the_clear(ask, settings):
    sent, error = ask(CLEAR, **settings)
    assert sent == [] and "not encrypted" in str(error)
    moved = {OTHER: httpx.Response(302, headers={"Location": CLEAR})}
    sent, error = ask(OTHER, answers=moved, **settings)
    assert [url for url, _ in sent] == [OTHER] and "not encrypted" in str(error)


def test_a_server_in_the_clear_may_name_others_which_see_no_token(ask):
    sent, error = ask(CLEAR, base="http://fhir.example/r4", token=True, **FILE)
    assert (sent, error) == ([(CLEAR, None)], None)


@pytest.mark.parametrize("endpoint", ["http://fhir.example/token", "HTTP://other.example/token"])
def test_an_encrypted_server_does_not_give_tokens_in_the_clear(monkeypatch, endpoint):
    answers = httpx.MockTransport(lambda request: httpx.Response(200, json={"token_endpoint": endpoint}))
    monkeypatch.setattr(httpx.AsyncClient, "__init__", partialmethod(httpx.AsyncClient.__init__, transport=answers))

    async def sign_in() -> None:
        async with Client(BASE, (), Access("client", {"keys": []})):
            pass

    with pytest.raises(FetchError, match="not encrypted"):
        asyncio.run(sign_in())


def test_a_removal_that_asks_for_the_token_elsewhere_fails_as_a_courtesy_may(ask):
    with pytest.raises(RequestError, match="shown only to the server itself"):
        ask(OTHER, answers={OTHER: httpx.Response(401)}, method="DELETE")


def test_another_host_that_asks_for_the_token_is_told_as_such(ask):
    sent, error = ask(OTHER, answers={OTHER: httpx.Response(401)}, **FILE)
    assert sent == [(OTHER, None)] and "shown only to the server itself" in str(error)
