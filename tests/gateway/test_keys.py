"""API keys: found by their hashes, and never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.requests.keys import KeyRing, hash_of, is_key, new_key, read_bearer
from polyslo.gateway.requests.openai_errors import Refusal


def ring(*tokens: bytes) -> KeyRing:
    """Return a ring with a key for each token, named by it."""
    return KeyRing([KeyConfig(token.decode("latin-1"), hash_of(token)) for token in tokens])


def test_a_new_key_is_found_by_the_hash_that_was_printed() -> None:
    """Two keys are never the same, and each opens its own hash only."""
    (key, key_hash), (other, _) = new_key(), new_key()
    assert key != other
    assert is_key(key.encode(), key_hash)
    assert not is_key(other.encode(), key_hash)
    assert not is_key(None, key_hash)
    assert not is_key(b"", None)


@given(st.lists(st.binary(min_size=1, max_size=20), unique=True, max_size=5), st.binary(min_size=1, max_size=20))
def test_a_token_finds_its_own_key(tokens: list[bytes], stranger: bytes) -> None:
    """Every key of the ring is found by its token, nothing else is."""
    keys = ring(*tokens)
    assert len(keys) == len(tokens)
    for token in [*tokens, stranger]:
        found = keys.find(token)
        assert (found is not None and found.name == token.decode("latin-1")) == (token in tokens)


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"host", b"x"), (b"authorization", b"bEaReR   abc ")], b"abc"),
        ([], None),
        ([(b"authorization", b"Bearer ")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"Bearer " + b"a" * 5000)], None),
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")], None),
    ],
)
def test_the_bearer_token(headers: list[tuple[bytes, bytes]], token: bytes | None) -> None:
    """The scheme is read in any case; anything doubtful is no token."""
    assert read_bearer(headers) == token


def test_a_request_is_admitted_refused_or_needs_no_key() -> None:
    """Without keys everybody is let in; with keys, no key and a wrong key are two different 401s."""
    headers = [(b"authorization", b"Bearer abc")]
    assert ring().admit([]) is None
    admitted = ring(b"abc").admit(headers)
    assert isinstance(admitted, KeyConfig)
    missing, wrong = ring(b"abc").admit([]), ring(b"other").admit(headers)
    assert isinstance(missing, Refusal)
    assert isinstance(wrong, Refusal)
    assert "no API key" in missing.message
    assert "unknown API key" in wrong.message
    assert "abc" not in wrong.message
    assert wrong.answer().status == 401
    assert (b"www-authenticate", b"Bearer") in wrong.answer().headers


def test_neither_key_nor_hash_is_in_a_repr() -> None:
    """What is logged by accident gives nothing away."""
    keys = ring(b"abc")
    shown = repr(keys) + repr(keys.find(b"abc"))
    assert "sha256" not in shown
    assert hash_of(b"abc")[7:] not in shown
