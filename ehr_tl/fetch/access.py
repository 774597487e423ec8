"""How a client proves to a server who it is: SMART Backend Services, or a plain token.

https://hl7.org/fhir/smart-app-launch/backend-services.html
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jwcrypto import jwk
from jwcrypto.common import JWException

from ehr_tl.errors import FetchError

#: What a key signs with, where it does not say so itself; SMART asks servers for the first two.
_ALGORITHMS = {"RSA": "RS384", "P-384": "ES384", "P-256": "ES256", "P-521": "ES512"}


@dataclass(frozen=True)
class Access:
    """What opens a server's door; nothing for a server that asks for nothing.

    Attributes:
        client_id: As which the client is registered.
        keys: A JWK Set with its private key.
        token_url: The token endpoint, where the server does not name it.
        token: A plain access token.
    """

    client_id: str | None = None
    keys: dict[str, Any] | None = field(default=None, repr=False)
    token_url: str | None = None
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        client_id: str | None = None,
        key: str | Path | None = None,
        token_url: str | None = None,
        bearer_token: str | None = None,
    ) -> Access:
        """Makes it of what a user names.

        Raises:
            FetchError: Parts are missing or do not go together, or the key cannot be used.
        """
        if bool(client_id) != bool(key):
            raise FetchError(
                f"A {'client id' if client_id else 'key'} is given alone", fix="give both --client-id and --key"
            )
        if bearer_token is not None and (client_id or token_url):
            raise FetchError(
                "A token is given beside what is needed to ask for one",
                fix="give --client-id and --key, or --bearer-token-file (EHR_TL_BEARER_TOKEN), not both",
            )
        if token_url and not client_id:
            raise FetchError("A token endpoint is given alone", fix="give --client-id and --key too")
        if bearer_token is not None and not (bearer_token.isascii() and bearer_token.isprintable() and bearer_token):
            raise FetchError("The bearer token is empty or more than one line", expected="the token and nothing else")
        return cls(client_id, read_key(Path(key)) if key else None, token_url, bearer_token)


def read_key(path: Path) -> dict[str, Any]:
    """A private key as a JWK Set of one key that says what it is for.

    Args:
        path: A JWK, a JWK Set with a private key, or PEM (PKCS#8, PKCS#1, SEC 1) without a password. A key without an
            id gets its thumbprint (RFC 7638).

    Raises:
        FetchError: It holds no private key that can sign. Nothing of the file's content is in the message.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise FetchError(f"The key {path} cannot be read: {reason}") from None
    try:
        keys = _json_keys(text) if text.lstrip().startswith("{") else [jwk.JWK.from_pem(text.encode())]
        usable = next(
            each for each in keys if each.has_private and each.get("use", "sig") == "sig" and _algorithm(each)
        )
    except (ValueError, TypeError, LookupError, AttributeError, JWException, StopIteration):
        raise FetchError(
            f"{path} holds no private key that can sign",
            expected="an RSA or elliptic curve key, as JWK, JWK Set or PEM without a password",
            fix="see docs/fetch.md for how to make one",
        ) from None
    signing = {"kid": usable.thumbprint(), **usable.export(as_dict=True), "alg": _algorithm(usable)}
    return {"keys": [signing | {"key_ops": ["sign"]}]}


def _json_keys(text: str) -> list[jwk.JWK]:
    value = json.loads(text)
    return [jwk.JWK(**each) for each in value.get("keys", [value])]


def _algorithm(key: jwk.JWK) -> str | None:
    usual = _ALGORITHMS.get(key.get("crv") or key.get("kty"))
    return (key.get("alg") or usual) if usual else None
