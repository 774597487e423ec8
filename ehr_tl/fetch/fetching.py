"""The whole of a fetch: request, folder, download, and what the server told."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ehr_tl.errors import FetchError
from ehr_tl.fetch.request import Request
from ehr_tl.fetch.unfinished import Unfinished, make_folder, read_manifest
from ehr_tl.fhir.times import parse_time
from ehr_tl.files import locked

log = logging.getLogger("ehr_tl")


@dataclass(frozen=True)
class Fetched:
    """What `fetch` brought.

    Attributes:
        folder: The export: `Type.001.ndjson` files, `manifest.json`, `log.ndjson`; below `deleted` and `error` what the
            server says of resources that are no more, and of its troubles.
        request: The kick-off URL.
        transaction_time: What the server knew at this time is in it (naive UTC); None where it does not say.
        resources: Type -> number.
        files: Number of files with resources.
        deleted: Number of resources that the server says are no more.
        told: What the server told of the export -> how often.
    """

    folder: Path
    request: str
    transaction_time: datetime | None
    resources: dict[str, int]
    files: int
    deleted: int
    told: dict[str, int]

    @property
    def text(self) -> str:
        """All of it for a terminal."""
        width = max(map(len, self.resources), default=0)
        lines = [f"Fetched  {self.request}"]
        if self.transaction_time:
            lines.append(f"As of    {self.transaction_time:%Y-%m-%d %H:%M:%S} UTC")
        lines.append(f"Holds    {sum(self.resources.values()):,} resources in {self.files:,} files")
        lines += [f"  {kind:<{width}}  {count:>12,}" for kind, count in self.resources.items()]
        if self.deleted:
            lines.append(f"Deleted  {self.deleted:,} resources on the server: see {self.folder / 'deleted'}")
        lines += [f"Told     {_times(text, count)}" for text, count in self.told.items()]
        return "\n".join(lines)


def fetch(
    url: str,
    out: str | Path,
    *,
    group: str | None = None,
    patient: bool = False,
    types: Iterable[str] = (),
    since: str | datetime | None = None,
    client_id: str | None = None,
    key: str | Path | None = None,
    token_url: str | None = None,
    bearer_token: str | None = None,
    accept_errors: bool = False,
) -> Fetched:
    """Fetches a FHIR server's Bulk Data export (`$export`) into a folder that `convert` reads.

    Called again with the same arguments after a break, it goes on: the export is not begun anew, and files that are
    whole stay. Until all is whole, `convert` refuses the folder. No token and no key is written or logged.

    Args:
        url: The server's base URL.
        out: A new or empty folder, or one that was begun. Only its owner can read it.
        group: Id of a Group: its members' records.
        patient: All patients' records, without the rest of what the server holds.
        types: Resource types; default: all that the server exports.
        since: Only what was changed since; a date is its first moment, and a time without a zone is UTC.
        client_id: As which the client is registered (SMART Backend Services).
        key: File with the client's private key: JWK, JWK Set or PEM.
        token_url: The token endpoint of a server that does not name it.
        bearer_token: A plain token, instead of client id and key.
        accept_errors: Take the export for whole where the server tells of errors that it met with.

    Raises:
        FetchError: A setting is wrong, the server cannot be reached, refuses, or tells of errors.
        RunError: Another process is at work in the folder.

    See https://hl7.org/fhir/uv/bulkdata/ and https://hl7.org/fhir/smart-app-launch/backend-services.html.
    """
    try:
        import smart_fetch.bulk_utils  # noqa: F401
    except ImportError:
        raise FetchError("smart-fetch is not installed", fix="pip install -c constraints.txt '.[fetch]'") from None
    from ehr_tl.fetch.access import Access
    from ehr_tl.fetch.content import deletions, problems
    from ehr_tl.fetch.exporter import discreet, export

    request = Request.of(url, group, patient, types, since)
    access = Access.of(client_id, key, token_url, bearer_token)
    if request.url.startswith("http:"):
        log.warning("%s is not encrypted: who listens on the network can read tokens and records", request.url)
    folder = Path(out)
    make_folder(folder)
    with locked(folder):
        record = Unfinished(folder, request)
        if read_manifest(folder) is None:
            with discreet():
                _run(export(request, access, folder, record))
        manifest = read_manifest(folder) or {}
        told = problems(folder, manifest)
        if not accept_errors:
            _refuse_errors(told)
        record.end()
    return _fetched(folder, manifest, deletions(folder, manifest), told)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Runs to the end what waits for a server; in a notebook, which has a loop of its own, beside it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=1) as beside:
        beside.submit(asyncio.run, work).result()


def _refuse_errors(told: Counter[Any]) -> None:
    errors = {issue: count for issue, count in told.most_common() if issue.severity in ("fatal", "error")}
    if errors:
        shown = "; ".join(_times(str(issue), count) for issue, count in list(errors.items())[:5])
        raise FetchError(
            f"The server met with errors, so that its export may lack records: {shown}",
            fix="ask those who run the server, or run the same command with --accept-errors: all files are here",
        )


def _times(text: str, count: int) -> str:
    from ehr_tl.fetch.answers import short

    return short(text) + (f" ({count:,} times)" if count > 1 else "")


def _fetched(folder: Path, manifest: dict[str, Any], deleted: int, told: Counter[Any]) -> Fetched:
    resources: Counter[str] = Counter()
    for entry in manifest["output"]:
        resources[entry["type"]] += entry["count"]
    return Fetched(
        folder,
        manifest["request"],
        parse_time(str(manifest["transactionTime"]), UTC, end_of=False),
        dict(sorted(resources.items())),
        len(manifest["output"]),
        deleted,
        {str(issue): count for issue, count in told.most_common()},
    )
