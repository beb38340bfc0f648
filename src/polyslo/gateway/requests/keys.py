"""API keys: how they are made, kept as hashes, and found again for a request.

A key is 256 random bits, so its SHA-256 is as good as any slow hash: nobody guesses a key from its hash, and scrypt,
which protects passwords that people choose, would cost every request tens of milliseconds. No key is held, shown or
logged after it was made: only `new_key` returns one, and only a request's header brings one.
"""

from __future__ import annotations

import secrets
from base64 import b64decode
from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest

from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.requests.headers import Headers
from polyslo.gateway.requests.openai_errors import Refusal

KEY_PREFIX = "polyslo-"  # lets scanners for leaked secrets know it
MAX_KEY_BYTES = 4096  # of a header's key; ours have 51
_BEARER, _BASIC = b"bearer ", b"basic "


class KeyRing:
    """The keys that a gateway knows, by their hashes."""

    def __init__(self, keys: Sequence[KeyConfig]) -> None:
        self._keys = tuple((bytes.fromhex(key.hash.removeprefix("sha256:")), key) for key in keys)

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._keys)

    def find(self, token: bytes) -> KeyConfig | None:
        """Return the key with this secret. Looks at all of them: the time tells nothing about which."""
        digest = sha256(token).digest()
        found = None
        for known, key in self._keys:
            if compare_digest(known, digest):
                found = key
        return found

    def admit(self, headers: Headers) -> KeyConfig | Refusal | None:
        """Return a request's key, a refusal without a valid one, or None where the gateway has no keys."""
        if not self._keys:
            return None
        token = read_bearer(headers)
        if token is None:
            return Refusal("unauthorized", 'no API key: send it as "authorization: Bearer KEY"', "authorization")
        return self.find(token) or Refusal(
            "unauthorized", "unknown API key: check it, or ask who runs this gateway for one", "authorization"
        )


def is_key(token: bytes | None, key_hash: str | None) -> bool:
    """Tell whether a token is the one key of a hash, as for the admin key; nothing is, where there is no hash."""
    if token is None or key_hash is None:
        return False
    return compare_digest(sha256(token).digest(), bytes.fromhex(key_hash.removeprefix("sha256:")))


def read_bearer(headers: Headers) -> bytes | None:
    """Return the token of `authorization: Bearer TOKEN`; None without one, with several, or with an absurd one."""
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) != 1 or given[0][: len(_BEARER)].lower() != _BEARER:
        return None
    token = given[0][len(_BEARER) :].strip()
    return token if 0 < len(token) <= MAX_KEY_BYTES else None


def read_password(headers: Headers) -> bytes | None:
    """Return the password of `authorization: Basic ...`, whoever's it is; None as for `read_bearer`."""
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) != 1 or given[0][: len(_BASIC)].lower() != _BASIC or len(given[0]) > 2 * MAX_KEY_BYTES:
        return None
    try:
        _, _, password = b64decode(given[0][len(_BASIC) :].strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return password or None


def new_key() -> tuple[str, str]:
    """Return a new key and the hash to write into the configuration."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, hash_of(key.encode())


def hash_of(token: bytes) -> str:
    """Return a key's hash as the configuration writes it."""
    return f"sha256:{sha256(token).hexdigest()}"
