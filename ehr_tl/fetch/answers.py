"""What a server says where it does not give what was asked for, as an error without secrets and records.

Only what is meant for this is shown: the issues of an OperationOutcome, and OAuth's error fields. Any other answer may
be a page that quotes the request, or a record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx

from ehr_tl.errors import FetchError

#: Longest text of a server that is shown.
_SHOWN = 300

_JWT = re.compile(r"[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+\S+")

#: What a request was for.
SIGN_IN, KICK_OFF, STATUS, FILE, CLEAN_UP = "an access token", "the export", "its state", "a file", "removal"


class Issue(NamedTuple):
    """An issue of an OperationOutcome."""

    severity: str
    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity} ({self.code})" + (f": {self.text}" if self.text else "")


def issues(outcome: dict[str, Any]) -> Iterator[Issue]:
    """The issues of an OperationOutcome; its narrative is left out."""
    found = outcome.get("issue")
    for each in found if isinstance(found, list) else ():
        if isinstance(each, dict):
            details = each.get("details") if isinstance(each.get("details"), dict) else {}
            text = plain(each.get("diagnostics") or details.get("text") or "")
            yield Issue(plain(each.get("severity") or "error"), plain(each.get("code") or "unknown"), text)


def plain(text: Any) -> str:
    """A server's text in one line, without what looks like a token.

    Examples:
        >>> plain("Not\\nso: Bearer abc.def ghi")
        'Not so: Bearer ... ghi'
    """
    line = " ".join(str(text).split())
    return _JWT.sub("...", _BEARER.sub(r"\1 ...", "".join(each for each in line if each.isprintable())))


def short(text: str) -> str:
    """As much of a server's text as is shown. Secrets come out before: half of one would be found no more."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def unsigned(url: str | httpx.URL) -> str:
    """A URL without what may itself be a key to what it names: login, query and fragment.

    Examples:
        >>> unsigned("https://user:secret@files.example:8443/Patient.ndjson?sig=1")
        'https://files.example:8443/Patient.ndjson'
    """
    try:
        parts = urlsplit(str(url))
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "a URL that cannot be read"
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    return urlunsplit((parts.scheme, place, parts.path, "", ""))


def refusal(step: str, url: str, response: httpx.Response, mask: Callable[[str], str]) -> FetchError:
    """The error for an answer that is none.

    Args:
        step: What was asked for: `SIGN_IN`, `KICK_OFF`, `STATUS`, `FILE` or `CLEAN_UP`.
        url: Where.
        response: What came.
        mask: Takes secrets out of a text of the server.
    """
    told = short(mask(said(response)))
    problem = f"{unsigned(url)}, asked for {step}, answers with {response.status_code} {response.reason_phrase}"
    return FetchError(problem + (f" and says: {told}" if told else ""), fix=_fix(step, response.status_code))


def said(response: httpx.Response) -> str:
    """What an OperationOutcome or an OAuth error says; nothing for anything else."""
    try:
        body = response.json()
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    if body.get("resourceType") == "OperationOutcome":
        return "; ".join(map(str, list(issues(body))[:3]))
    return ": ".join(plain(body[name]) for name in ("error", "error_description") if isinstance(body.get(name), str))


def _fix(step: str, status: int) -> str:
    if status == 429:
        return "wait, then run the same command again: the server has too much to do, or runs another export of yours"
    if status >= 500:
        return "run the same command again later; if it stays so, ask those who run the server"
    if step == SIGN_IN:
        return (
            "check the client id, that the key's public half is registered under its id (kid), that the client may "
            "have the scopes (system/*.read, or one for each --type), and this machine's clock"
        )
    if status == 401:
        return "check the client id and key, or the token: it may have run out"
    if status == 403:
        return "have those who run the server allow this client to export (its scopes, the group)"
    if step == KICK_OFF:
        return (
            "check the base URL, --group and --type; a server without FHIR Bulk Data needs another way: have its "
            "vendor export NDJSON or Bundles"
        )
    if step in (STATUS, FILE) and status in (404, 410):
        return "the server has dropped the export: remove the folder named with --out and begin again"
    return "ask those who run the server"
