"""A Bulk Data export from kick-off to the last file.

The library smart-fetch kicks off, waits as the server asks it to, writes the customary log.ndjson and has the server
remove its copy. Its downloads are not enough for files that are large and lines that break: it writes under the final
name, takes a broken connection for the end of all, and fetches everything again after a restart. They are done here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
from smart_fetch.bulk_utils import BulkExporter

from ehr_tl.errors import FetchError
from ehr_tl.fetch.access import Access
from ehr_tl.fetch.answers import Issue, issues, unsigned
from ehr_tl.fetch.client import Client
from ehr_tl.fetch.request import RESOURCE_TYPE, Request
from ehr_tl.fetch.unfinished import Unfinished, write_manifest
from ehr_tl.fhir.blocks import blocks, lines
from ehr_tl.files import whole
from ehr_tl.progress import Bar, bar

log = logging.getLogger("ehr_tl")

#: Files that are fetched at the same time: a hospital's server has other work.
_AT_ONCE = 4

#: Seconds between tries of a file that breaks off, and minutes between those that the server refuses for a while.
BROKEN_WAITS = (1, 4, 15, 60)
_BUSY_WAITS = (1, 2, 4, 8)

#: The lists of a manifest. What is no output lies in a folder of the list's name, as is the custom.
_KINDS = ("output", "error", "deleted")


@dataclass(frozen=True)
class Item:
    """A file of a manifest.

    Attributes:
        kind: The list that it is in: output, error or deleted.
        type: Its resource type.
        url: Where it comes from.
        name: What it is called in the folder.
        count: How many resources it holds, where the server says so.
        token: Whether the token is to be shown: not to a file server that has other locks.
    """

    kind: str
    type: str
    url: str
    name: str
    count: int | None
    token: bool


class Broken(Exception):
    """A file came, but not all of it."""


class Exporter(BulkExporter):
    """smart-fetch's exporter with downloads that can break off.

    Args:
        client: A client that is open.
        open_client: One that has no token to show.
        request: What is asked for.
        folder: Where files go.
        record: Of `folder`.
    """

    def __init__(self, client: Client, open_client: Client, request: Request, folder: Path, record: Unfinished):
        super().__init__(client, set(request.types), request.url, str(folder), metadata=record)
        self.export_url = request.kick_off  # the library would ask for no type where none is named
        self._open_client, self._folder, self._record = open_client, folder, record
        self._failed = False

    async def _download_all_ndjson_files(self, resource_json: dict, item_type: str) -> None:
        """Overridden. It is called for each list of the manifest; all are fetched at the first call."""
        if item_type == _KINDS[0]:
            await self._download(resource_json)

    def _gather_all_messages(self) -> tuple[set[str], set[str]]:
        """Overridden: `problems` tells of them when all is in place."""
        return set(), set()

    async def _download(self, manifest: dict[str, Any]) -> None:
        items = _items([page async for page in self._pages(manifest)])
        self._record.plan({item.name: source for item, source in zip(items, _sources(items))})
        turn = asyncio.Semaphore(_AT_ONCE)
        with bar(f"Fetching {len(items):,} files", len(items)) as progress:
            counts = await asyncio.gather(*(self._have(item, turn, progress) for item in items), return_exceptions=True)
        for failure in counts:
            if isinstance(failure, BaseException):
                raise failure
        listed = {
            kind: [{"type": i.type, "url": i.name, "count": n} for i, n in zip(items, counts) if i.kind == kind]
            for kind in _KINDS
        }
        time = manifest.get("transactionTime")
        write_manifest(self._folder, {"transactionTime": time, "request": self.export_url, **listed})

    async def _pages(self, manifest: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A manifest and those that it links to as the next."""
        seen = set()
        while True:
            yield manifest
            links = [str(each.get("url")) for each in manifest.get("link", []) if each.get("relation") == "next"]
            if not links or links[0] in seen:
                return
            seen.add(links[0])
            response = await self._request_with_delay_status(links[0], headers={"Accept": "application/json"})
            manifest = response.json()

    async def _have(self, item: Item, turn: asyncio.Semaphore, progress: Bar) -> int:
        """Sees to it that a file is there and whole; returns how many resources it holds."""
        path = self._folder / item.name
        async with turn:
            if self._failed:  # those that are on their way come to their end, no other is begun
                return 0
            try:
                count = await self._fetch(item, path) if (kept := _kept(path, item)) is None else kept
            except BaseException:
                self._failed = True
                raise
        progress.advance(note=item.name)
        return count

    async def _fetch(self, item: Item, path: Path) -> int:
        for wait in BROKEN_WAITS:
            try:
                return await self._fetch_once(item, path)
            except Broken as broken:
                log.warning("%s did not come whole (%s): it is fetched again", item.name, broken)
                await asyncio.sleep(wait)
        try:
            return await self._fetch_once(item, path)
        except Broken as broken:
            raise FetchError(
                f"{unsigned(item.url)} did not come whole in {len(BROKEN_WAITS) + 1} tries: {broken}",
                fix="run the same command again; if it stays so, ask those who run the server",
            ) from None

    async def _fetch_once(self, item: Item, path: Path) -> int:
        address = unsigned(item.url)
        response = await (self._client if item.token else self._open_client).request(
            "GET",
            item.url,
            headers={"Accept": "application/fhir+ndjson"},
            stream=True,
            retry_delays=_BUSY_WAITS,
            request_callback=partial(self._log.download_request, address, item.kind, item.type),
            error_callback=partial(self._log.download_error, address),
        )
        try:
            if response.status_code != 200:
                raise Broken(f"the server answers with {response.status_code}")
            with whole(path) as temporary:
                with open(temporary, "wb", opener=_private) as file:
                    async for block in response.aiter_bytes():
                        file.write(block)
                count = check(temporary, item)
                size = temporary.stat().st_size
        except httpx.HTTPError as error:
            raise Broken(f"the connection ended: {type(error).__name__}") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FetchError(
                f"{self._folder} has no space for {item.name}: {error.strerror}",
                fix="free some space and run the same command again: what is there stays",
            ) from None
        finally:
            await response.aclose()
        self._log.download_complete(address, count, size)
        return count


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _items(pages: list[dict[str, Any]]) -> list[Item]:
    """The files of a manifest, all pages of it, in order."""
    numbers: Counter[tuple[str, str]] = Counter()
    items = []
    for page in pages:
        for kind in _KINDS:
            for entry in page.get(kind, []):
                name, url = str(entry.get("type")), entry.get("url")
                if not RESOURCE_TYPE.fullmatch(name) or not isinstance(url, str):
                    raise FetchError("The server's manifest names a file without its resource type or URL")
                numbers[kind, name] += 1
                file = f"{name}.{numbers[kind, name]:03}.ndjson"
                count = entry.get("count")
                items.append(
                    Item(
                        kind,
                        name,
                        url,
                        file if kind == "output" else f"{kind}/{file}",
                        count if isinstance(count, int) else None,
                        page.get("requiresAccessToken", True) is not False,
                    )
                )
    return items


def _sources(items: list[Item]) -> list[str]:
    """What tells a file from others. The query is left out where it can be: it may be a signature, made anew each time.

    Only a digest of it would be kept otherwise.
    """
    paths = [unsigned(item.url) for item in items]
    if len(set(paths)) == len(paths):
        return paths
    from hashlib import sha256

    return [f"{path} {sha256(urlsplit(item.url).query.encode()).hexdigest()}" for path, item in zip(paths, items)]


def _kept(path: Path, item: Item) -> int | None:
    """How many resources a file holds that an earlier call has fetched; None if there is none that is whole."""
    try:
        return check(path, item)
    except (FileNotFoundError, Broken):
        return None


def check(path: Path, item: Item) -> int:
    """Sees to it that a file is whole NDJSON of its type; returns how many resources it holds.

    Raises:
        Broken: Its last line is cut off, or lines are missing.
        FetchError: It holds something else.
    """
    count, first, last = 0, b"", b""
    with path.open("rb") as stream:
        for line in lines(blocks(stream, ".ndjson")):
            if line is None or line.strip():
                first = first or (line or b"")
                last, count = line or b"", count + 1
    if count and not isinstance(_decoded(last), dict):
        raise Broken("its last line is cut off")
    if item.count is not None and count < item.count:
        raise Broken(f"{count:,} of {item.count:,} resources")
    if count:
        _check_type(_decoded(first), item)
    return count


def _decoded(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:
        return None


def _check_type(resource: Any, item: Item) -> None:
    kind = resource.get("resourceType") if isinstance(resource, dict) else None
    if kind == item.type:
        return
    said = "; ".join(map(str, issues(resource))) if kind == "OperationOutcome" else ""
    raise FetchError(
        f"{unsigned(item.url)} holds something else than {item.type}" + (f" and says: {said}" if said else ""),
        expected=f"NDJSON of {item.type}",
        fix="ask those who run the server",
    )


def problems(folder: Path, manifest: dict[str, Any]) -> Counter[Issue]:
    """What the server told of the export: the issues of its OperationOutcomes, each with how often it was told."""
    found: Counter[Issue] = Counter()
    for entry in manifest["error"]:
        with (folder / entry["url"]).open("rb") as stream:
            for line in lines(blocks(stream, ".ndjson")):
                outcome = _decoded(line or b"")
                if isinstance(outcome, dict):
                    found.update(issues(outcome))
    return found


async def export(request: Request, access: Access, folder: Path, record: Unfinished) -> None:
    """Fetches all files and writes the manifest.

    Raises:
        FetchError: The server cannot be reached, refuses, or does not deliver.
    """
    for name in ("httpx", "httpcore"):  # their lines hold signed URLs and cookies
        logging.getLogger(name).setLevel(logging.WARNING)
    async with Client(request.url, request.types, access) as client, Client(None, (), Access()) as open_client:
        version = str(client.capabilities.get("fhirVersion") or "4")
        if version.split(".")[0] != "4":
            raise FetchError(
                f"{request.url} speaks FHIR {version}",
                expected="FHIR R4 (4.0) or R4B (4.3)",
                fix="ask for the address of its R4 interface: many servers have several",
            )
        try:
            with redirect_stdout(sys.stderr):  # where progress belongs
                await Exporter(client, open_client, request, folder, record).export()
        except SystemExit as end:
            if isinstance(end.code, str):  # how the library tells of its errors
                raise FetchError(end.code, fix="run the same command again later") from None
            raise
