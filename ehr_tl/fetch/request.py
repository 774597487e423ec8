"""What is asked of a server: the kick-off request of a Bulk Data export.

https://hl7.org/fhir/uv/bulkdata/STU2/export.html#bulk-data-kick-off-request
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

from ehr_tl.errors import FetchError

RESOURCE_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")


@dataclass(frozen=True)
class Request:
    """An export that is asked for.

    Attributes:
        url: The server's base URL, without a slash at its end.
        path: Below it: nothing for all that the server holds, `/Patient`, or `/Group/ID`.
        types: Resource types, sorted; none asks for all.
        since: A FHIR instant.
    """

    url: str
    path: str = ""
    types: tuple[str, ...] = ()
    since: str | None = None

    @classmethod
    def of(
        cls,
        url: str,
        group: str | None = None,
        patient: bool = False,
        types: Iterable[str] = (),
        since: str | datetime | None = None,
    ) -> Request:
        """Makes a request of what a user names.

        Raises:
            FetchError: Something is no URL, type, id or time.
        """
        if group and patient:
            raise FetchError("A group and all patients are asked for at once", fix="name one of --group and --patient")
        if group is not None and not _ID.fullmatch(group):
            raise FetchError(f"{group!r} is no id of a Group", expected="letters, digits, - and ., at most 64")
        path = f"/Group/{group}" if group else "/Patient" if patient else ""
        return cls(_base(url), path, tuple(sorted(set(map(_resource_type, types)))), _instant(since) if since else None)

    @property
    def kick_off(self) -> str:
        """The URL that begins the export.

        Examples:
            >>> Request.of("https://fhir.example/r4/", group="7", types=["Patient", "Condition"]).kick_off
            'https://fhir.example/r4/Group/7/$export?_type=Condition%2CPatient'
            >>> Request.of("https://fhir.example/r4", since="2026-01-01").kick_off
            'https://fhir.example/r4/$export?_since=2026-01-01T00%3A00%3A00Z'
        """
        # One list with commas, not a parameter for each type: some servers read only the last of these.
        asked = {"_type": ",".join(self.types), "_since": self.since}
        query = urlencode({name: value for name, value in asked.items() if value})
        return f"{self.url}{self.path}/$export" + (f"?{query}" if query else "")


def _base(url: str) -> str:
    expected = "a server's base URL, such as https://fhir.hospital.example/r4"
    try:
        parts = urlsplit(url)
        secret, host = parts.password or parts.username, parts.hostname
    except ValueError:
        raise FetchError("The server's URL cannot be read", expected=expected) from None
    if secret:
        raise FetchError(
            "The server's URL holds a user name or password",
            expected=expected,
            fix="leave it out: what is on the command line can be read by others; see --key and --bearer-token-file",
        )
    if parts.scheme not in ("https", "http") or not host:
        raise FetchError(f"{url!r} is no URL of a server", expected=expected)
    if parts.query or parts.fragment or "$export" in parts.path:
        raise FetchError(
            f"{parts.scheme}://{parts.netloc}{parts.path} is more than a server's base URL",
            expected=expected,
            fix="leave out $export and what follows; see --group, --patient, --type and --since",
        )
    return url.rstrip("/")


def _resource_type(name: str) -> str:
    if not RESOURCE_TYPE.fullmatch(name):
        raise FetchError(f"{name!r} is no resource type", expected="names such as Patient, Condition or Observation")
    return name


def _instant(time: str | datetime) -> str:
    """A FHIR instant. A date is its first moment; a time that names no zone is UTC.

    Examples:
        >>> _instant("2026-01-01T08:00:00+02:00")
        '2026-01-01T08:00:00+02:00'
    """
    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    except ValueError:
        raise FetchError(f"{time!r} is no time", expected="a date or time such as 2026-01-31T08:00:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.isoformat().replace("+00:00", "Z")
