"""A server's manifest: which files an export consists of.

https://hl7.org/fhir/uv/bulkdata/STU2/export.html#response---complete-status
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from ehr_tl.errors import FetchError
from ehr_tl.fetch.answers import unsigned
from ehr_tl.fetch.request import RESOURCE_TYPE

#: The lists of a manifest. What is no output lies in a folder of the list's name, as is the custom.
KINDS = ("output", "error", "deleted")


@dataclass(frozen=True)
class Item:
    """A file of a manifest.

    Attributes:
        kind: The list that it is in: output, error or deleted.
        type: Its resource type.
        url: Where it comes from.
        name: What it is called in the folder.
        count: How many resources it holds, where the server says so.
        token: Whether the server says that the token is to be shown; None where it does not say.
    """

    kind: str
    type: str
    url: str
    name: str
    count: int | None
    token: bool | None


def items_of(pages: list[dict[str, Any]]) -> list[Item]:
    """The files of a manifest, all pages of it, in order."""
    numbers: Counter[tuple[str, str]] = Counter()
    items = []
    for page in pages:
        for kind in KINDS:
            for entry in page.get(kind, []):
                name, url = str(entry.get("type")), entry.get("url")
                if not RESOURCE_TYPE.fullmatch(name) or not _is_address(url):
                    raise FetchError("The server's manifest names a file without its resource type or URL")
                numbers[kind, name] += 1
                file = f"{name}.{numbers[kind, name]:03}.ndjson"
                count, token = entry.get("count"), page.get("requiresAccessToken")
                items.append(
                    Item(
                        kind,
                        name,
                        url,
                        file if kind == "output" else f"{kind}/{file}",
                        count if isinstance(count, int) else None,
                        token if isinstance(token, bool) else None,
                    )
                )
    return items


def _is_address(url: Any) -> bool:
    try:
        parts = urlsplit(url) if isinstance(url, str) and url.isprintable() else None
    except ValueError:
        return False
    return parts is not None and parts.scheme in ("http", "https") and bool(parts.netloc)


def sources(items: list[Item]) -> list[str]:
    """What tells a file from others. The query is left out where it can be: it may be a signature, made anew each time.

    Only a digest of it would be kept otherwise.
    """
    paths = [unsigned(item.url) for item in items]
    if len(set(paths)) == len(paths):
        return paths
    return [f"{path} {sha256(urlsplit(item.url).query.encode()).hexdigest()}" for path, item in zip(paths, items)]
