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
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import rich
from smart_fetch.bulk_utils import BulkExporter

from ehr_tl.errors import FetchError
from ehr_tl.fetch.access import Access
from ehr_tl.fetch.answers import unsigned
from ehr_tl.fetch.client import Client
from ehr_tl.fetch.content import Broken, check
from ehr_tl.fetch.manifest import KINDS, Item, items_of, sources
from ehr_tl.fetch.request import Request
from ehr_tl.fetch.unfinished import Unfinished, write_manifest
from ehr_tl.files import whole
from ehr_tl.progress import Bar, bar

log = logging.getLogger("ehr_tl")

#: Files that are fetched at the same time: a hospital's server has other work.
_AT_ONCE = 4

#: Seconds between tries of a file that breaks off, and minutes between those that the server refuses for a while.
BROKEN_WAITS = (1, 4, 15, 60)
_BUSY_WAITS = (1, 2, 4, 8)


class Exporter(BulkExporter):
    """smart-fetch's exporter with downloads that can break off.

    Args:
        client: A client that is open.
        request: What is asked for.
        folder: Where files go.
        record: Of `folder`.
    """

    def __init__(self, client: Client, request: Request, folder: Path, record: Unfinished):
        super().__init__(client, set(request.types), request.url, str(folder), metadata=record)
        self.export_url = request.kick_off  # the library would ask for no type where none is named
        self._folder, self._record = folder, record
        self._failed = False

    async def _download_all_ndjson_files(self, resource_json: dict, item_type: str) -> None:
        """Overridden. It is called for each list of the manifest; all are fetched at the first call."""
        if item_type == KINDS[0]:
            await self._download(resource_json)

    def _gather_all_messages(self) -> tuple[set[str], set[str]]:
        """Overridden: `problems` tells of them when all is in place."""
        return set(), set()

    async def _download(self, manifest: dict[str, Any]) -> None:
        items = items_of([page async for page in self._pages(manifest)])
        self._record.plan({item.name: source for item, source in zip(items, sources(items))})
        turn = asyncio.Semaphore(_AT_ONCE)
        with bar(f"Fetching {len(items):,} files", len(items)) as progress:
            counts = await asyncio.gather(*(self._have(item, turn, progress) for item in items), return_exceptions=True)
        for failure in counts:
            if isinstance(failure, BaseException):
                raise failure
        listed = {
            kind: [{"type": i.type, "url": i.name, "count": n} for i, n in zip(items, counts) if i.kind == kind]
            for kind in KINDS
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
        response = await self._client.request(
            "GET",
            item.url,
            headers={"Accept": "application/fhir+ndjson"},
            stream=True,
            token=item.token,
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


def _kept(path: Path, item: Item) -> int | None:
    """How many resources a file holds that an earlier call has fetched; None if there is none that is whole."""
    try:
        return check(path, item)
    except (FileNotFoundError, Broken):
        return None


@contextmanager
def discreet() -> Iterator[None]:
    """Keeps signed URLs and cookies, which the HTTP library would tell of, out of logs.

    What smart-fetch prints goes to stderr, without the line across the screen that it begins with.
    """
    console = rich.get_console()
    console.rule = lambda *_, **__: None
    loggers = [logging.getLogger(name) for name in ("httpx", "httpcore")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        del console.rule
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


async def export(request: Request, access: Access, folder: Path, record: Unfinished) -> None:
    """Fetches all files and writes the manifest.

    Raises:
        FetchError: The server cannot be reached, refuses, or does not deliver.
    """
    async with Client(request.url, request.types, access) as client:
        version = str(client.capabilities.get("fhirVersion") or "4")
        if version.split(".")[0] != "4":
            raise FetchError(
                f"{request.url} speaks FHIR {version}",
                expected="FHIR R4 (4.0) or R4B (4.3)",
                fix="ask for the address of its R4 interface: many servers have several",
            )
        try:
            await Exporter(client, request, folder, record).export()
        except SystemExit as end:
            if isinstance(end.code, str):  # how the library tells of its errors
                raise FetchError(end.code, fix="run the same command again later") from None
            raise
