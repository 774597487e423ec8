"""What is shown of a server's answer."""

from __future__ import annotations

import pytest

from ehr_tl.fetch.answers import unsigned


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@files.example/a/f.ndjson?sig=secret#secret", "https://files.example/a/f.ndjson"),
        ("https://secret@files.example:8443", "https://files.example:8443"),
        ("https://user:secret@[::1]:8443/f", "https://[::1]:8443/f"),
        ("/status/1?secret", "/status/1"),
        ("https://user:secret@[", "a URL that cannot be read"),
        ("https://files.example:secret/f", "a URL that cannot be read"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_key(url, shown):
    assert unsigned(url) == shown
