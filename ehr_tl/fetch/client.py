"""The library's client, which signs in, renews tokens and tries again, with errors that hold no secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import cumulus_fhir_support as cfs
import httpx

from ehr_tl.errors import FetchError
from ehr_tl.fetch.access import Access
from ehr_tl.fetch.answers import CLEAN_UP, FILE, KICK_OFF, SIGN_IN, STATUS, refusal, said, short, unsigned

log = logging.getLogger("ehr_tl")

#: Seconds until a server that says nothing at first counts as out of reach.
_FIRST_CONTACT = 30

#: Headers of an answer that smart-fetch needs. It writes them to log.ndjson, where a cookie has no place.
_HEADERS = {"content-length", "content-location", "content-type", "date", "expires", "retry-after", "x-progress"}


#: What the request of the running task has shown to be let in; nothing where the token is kept back.
_SENT: ContextVar[dict[str, str]] = ContextVar("_SENT")

#: Whether the manifest says that the running task's request needs the token; None where it does not say.
_NEEDED: ContextVar[bool | None] = ContextVar("_NEEDED")


class Client(cfs.FhirClient):
    """A client to one server: an async context, with `request`.

    Beyond what it inherits: whether the server can be reached at all is asked once, not for minutes; a server that does
    not name its token endpoint is served with the one that is given; every refusal is a `FetchError`. Only the server's
    own origin sees the token, unless its manifest asks for more, and nothing that an encrypted server names is asked
    for unencrypted.

    Args:
        url: The server's base URL.
        types: Resource types to ask access to; none asks for all.
        access: What opens the door.
    """

    def __init__(self, url: str, types: Iterable[str], access: Access):
        super().__init__(
            url,
            list(types) or ["*"],
            token_url=access.token_url,
            bearer_token=access.token,
            smart_client_id=access.client_id,
            smart_jwks=access.keys,
        )
        self._url, self._access = url, access
        self._signing_in = asyncio.Lock()
        self._shown: set[str] = set()  # tokens that servers have seen, and may quote

    async def __aenter__(self) -> Client:
        await self._meet(f"{self._url}/.well-known/smart-configuration")
        try:
            await super().__aenter__()
        except (cfs.RequestError, ValueError) as error:
            await self.__aexit__(None, None, None)
            raise self._explain(error, SIGN_IN, self._url) from None
        if self._auth.sign_headers().get("Authorization") == "Bearer None":
            await self.__aexit__(None, None, None)
            raise FetchError(f"{self._url} gives no token when asked", expected="an access_token (RFC 6749)")
        self._session.event_hooks = {"request": [self._guard]}
        return self

    async def _meet(self, url: str) -> None:
        """Looks whether the server is there, and where it gives tokens."""
        try:
            self._origin = _origin(httpx.URL(self._url))
            async with httpx.AsyncClient(timeout=_FIRST_CONTACT, follow_redirects=True) as session:
                response = await session.get(url, headers={"Accept": "application/json"})
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _unreachable(self._url, error) from None
        if not self._access.client_id:
            return
        try:
            found = response.json() if response.is_success else {}
        except ValueError:
            found = {}
        found = found if isinstance(found, dict) else {}
        endpoint = self._access.token_url or found.get("token_endpoint")
        if not endpoint:
            raise FetchError(
                f"{self._url} does not say where it gives access tokens ({url}: {response.status_code})",
                expected="a server with SMART Backend Services",
                fix="check the base URL, or name the token endpoint with --token-url",
            )
        self._refuse_unencrypted(str(endpoint))
        # The library would look again, and stop where there is nothing even if it was told the endpoint.
        self._auth._config = found | {"token_endpoint": endpoint}

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: dict | None = None,
        stream: bool = False,
        retry_delays: Iterable[int] | None = None,
        request_callback: Callable[[], None] | None = None,
        error_callback: Callable[[Exception], None] | None = None,
        retry_callback: Callable[[httpx.Response | None, int], None] | None = None,
        token: bool | None = None,
    ) -> httpx.Response:
        """As inherited; a removal is tried but once: it is a courtesy.

        Args:
            token: Whether the manifest says that the token is needed (`requiresAccessToken`). If it does, the token is
                shown to another host too, over https; if it says no, to none.

        Raises:
            FetchError: The server refuses, stays out of reach after all tries, or names an address without encryption.
            cumulus_fhir_support.RequestError: As the exporter wants it where a removal fails.
        """
        step = _step(method, headers or {}, stream)

        def wait(response: httpx.Response | None, seconds: int) -> None:
            reason = f"answers {response.status_code}" if response is not None else "cannot be reached"
            log.info("%s %s: the next try is in %d s", unsigned(path), reason, seconds)
            if retry_callback:
                retry_callback(response, seconds)

        self._remember()
        _SENT.set(self._auth.sign_headers())
        _NEEDED.set(token)
        try:
            response = await super().request(
                method,
                path,
                headers=headers,
                stream=stream,
                retry_delays=[] if step == CLEAN_UP else retry_delays,
                request_callback=request_callback,
                retry_callback=wait,
            )
        except (cfs.RequestError, FetchError, httpx.InvalidURL, ValueError) as error:
            told = self._explain(error, step, path)
            if error_callback:
                error_callback(told)
            raise (cfs.RequestError(str(told)) if step == CLEAN_UP else told) from None
        if step == KICK_OFF and response.status_code == 202 and "Content-Location" not in response.headers:
            raise FetchError(f"{unsigned(path)} does not say where the export's state is told (no Content-Location)")
        if step == STATUS and response.status_code == 200:
            return httpx.Response(200, json=self._manifest(response))
        if not stream:
            for name in set(response.headers) - _HEADERS:
                del response.headers[name]
        return response

    async def _guard(self, request: httpx.Request) -> None:
        """Runs before each request is sent, also one that a redirect leads to: keeps the token where it belongs."""
        self._refuse_unencrypted(request.url)
        needed = _NEEDED.get()
        own = _origin(request.url) == self._origin
        if not (needed is not False if own else needed is True and request.url.scheme == "https"):
            _SENT.set({})
            if not request.url.userinfo:  # with these httpx has put a login for this address in its place
                request.headers.pop("Authorization", None)

    def _refuse_unencrypted(self, url: str | httpx.URL) -> None:
        if self._origin[0] == "https" and str(url).lower().startswith("http:"):
            raise FetchError(
                f"{self._url} sends on to {unsigned(url)}, which is not encrypted",
                expected="https, as at the base URL",
                fix="ask those who run the server: who listens on the network could read tokens and records",
            )

    async def _reauthorize(self) -> dict[str, str]:
        """Overridden. Of several requests whose token has run out one asks for a new: it may end the one before."""
        if self._auth.sign_headers() and not _SENT.get():
            raise FetchError(
                f"{self._url} sends on to an address that asks for a token, which is shown only to the server itself",
                expected="the server's own address, or https and a manifest with requiresAccessToken: true",
                fix="ask those who run the server",
            )
        async with self._signing_in:
            if self._auth.sign_headers() == _SENT.get():
                await super()._reauthorize()
        _SENT.set(self._auth.sign_headers())
        return self._auth.sign_headers()

    def _explain(self, error: Exception, step: str, url: str) -> FetchError:
        if isinstance(error, FetchError):
            return error
        if isinstance(error, cfs.AuthError):
            step, error = SIGN_IN, error.__cause__ or error
            url = (getattr(self._auth, "_config", None) or {}).get("token_endpoint") or url
        response = getattr(error, "response", None)
        if response is not None:
            return refusal(step, url, response, self._mask)
        if isinstance(error, (cfs.NetworkError, httpx.InvalidURL)):
            return _unreachable(url, error.__cause__ or error)
        if isinstance(error, cfs.AuthError):
            return FetchError(
                f"{unsigned(url)} asks for a token, and there is none",
                fix="give --client-id and --key, or --bearer-token-file",
            )
        return FetchError(f"{unsigned(url)}, asked for {step}, gives an answer that is no JSON")

    def _manifest(self, response: httpx.Response) -> dict[str, Any]:
        """The manifest without what is null, which smart-fetch would take for a list."""
        try:
            manifest = response.json()
        except ValueError:
            manifest = None
        given = manifest if isinstance(manifest, dict) else {}
        manifest = {name: value for name, value in given.items() if value is not None}
        lists = [manifest.get("output"), *(manifest.get(name, []) for name in ("error", "deleted", "link"))]
        if not all(isinstance(each, list) and all(isinstance(entry, dict) for entry in each) for each in lists):
            told = short(self._mask(said(response)))
            raise FetchError(
                f"{unsigned(response.url)} answers with something else than a manifest"
                + (f" and says: {told}" if told else ""),
                expected="JSON with the list output (FHIR Bulk Data)",
                fix="ask those who run the server",
            )
        return manifest

    def _remember(self) -> None:
        self._shown.add(self._auth.sign_headers().get("Authorization", "").removeprefix("Bearer "))

    def _mask(self, text: str) -> str:
        self._remember()
        for token in self._shown - {"", "None"}:
            text = text.replace(token, "...")
        return text


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _step(method: str, headers: dict[str, Any], stream: bool) -> str:
    if method == "DELETE":
        return CLEAN_UP
    return FILE if stream else KICK_OFF if "Prefer" in headers else STATUS


def _unreachable(url: str, error: BaseException) -> FetchError:
    return FetchError(
        f"{unsigned(url)} cannot be reached: {str(error) or type(error).__name__}",
        fix="check the URL, the network and proxy (HTTPS_PROXY), and for a hospital's own certificates SSL_CERT_FILE",
    )
