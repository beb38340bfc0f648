"""Where requests go and how they are written: addresses, model, API, headers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from polyslo.errors import ConfigError, nearest
from polyslo.wire.fields import OURS_IN_REQUESTS, TOKEN

ENDPOINTS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
PROMPTS = ("ids", "text")
OUTPUT_LENGTHS = ("exact", "capped")
FIRST_TOKEN_ID = 16  # the ids below are special tokens in most vocabularies
DEFAULT_VOCAB_SIZE = 32_000  # nearly every vocabulary has that many
SLO_HEADERS = (b"x-llm-d-slo-ttft-ms", b"x-llm-d-slo-tpot-ms")
_HEADER = re.compile(rb"(" + TOKEN + rb"+):([ -~]*)")
_WRITTEN_HERE = OURS_IN_REQUESTS | {b"accept", b"content-type"}


@dataclass(frozen=True, slots=True)
class Address:
    """One server: `origin` is scheme, host and port; `prefix` the path before `/v1`."""

    origin: str
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL, with or without `/v1` at its end. Raises `ConfigError` for what is none."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"--url: not a URL, {error}, got {url!r}; e.g. http://127.0.0.1:30000") from None
        beyond = parts.query or parts.fragment or parts.username is not None or not url.isascii()
        if parts.scheme not in ("http", "https") or not parts.hostname or beyond:
            raise ConfigError(f"--url: must be http(s)://host:port, got {url!r}; e.g. http://127.0.0.1:30000")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        number = port if port is not None else (443 if parts.scheme == "https" else 80)
        return cls(f"{parts.scheme}://{host}:{number}", parts.path.rstrip("/").removesuffix("/v1"))


@dataclass(frozen=True, slots=True)
class Target:
    """Servers of one model, taken in turn, and how requests to them are written.

    `output_lengths` is `exact` (the drawn length, enforced by fields that engines know and OpenAI's own API does
    not) or `capped` (at most the drawn length, standard fields only). `prompt` is `ids` or `text`; chat takes text
    only. `prompt_seed` draws the prompts: another one keeps an engine from finding those of the last run in its
    prefix cache. `exact_tokens` asks the server to say in every event how many tokens there are so far. `headers`
    go with each request, written `NAME: VALUE`: a class, a tenant.
    """

    urls: tuple[str, ...]
    model: str | None = None  # None: what the first server says
    endpoint: str = "completions"
    api_key: str | None = field(default=None, repr=False)
    slo_headers: bool = True
    headers: tuple[str, ...] = field(default=(), repr=False)  # a key may be among them
    prompt: str | None = None  # None: ids for completions, text for chat
    vocab_size: int = DEFAULT_VOCAB_SIZE
    prompt_seed: int = 0
    output_lengths: str = "exact"
    exact_tokens: bool = False

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError("--url: give at least one, got none; e.g. --url http://127.0.0.1:30000")
        for url in self.urls:
            Address.parse(url)
        for name, value, allowed in (
            ("endpoint", self.endpoint, ENDPOINTS),
            ("output-lengths", self.output_lengths, OUTPUT_LENGTHS),
            ("prompt", self.prompt_kind, PROMPTS),
        ):
            if value not in allowed:
                raise ConfigError(f"--{name}: got {value!r}{nearest(value, allowed)}")
        if self.endpoint == "chat" and self.prompt == "ids":
            raise ConfigError("--prompt ids: chat takes text, got --endpoint chat; use --prompt text or completions")
        if self.vocab_size <= FIRST_TOKEN_ID + 1:
            raise ConfigError(f"--vocab: must be above {FIRST_TOKEN_ID + 1}, got {self.vocab_size}; see the model")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError("--api-key: must be printable ASCII; give it without line breaks")
        for header, _ in self.own_headers:
            self._check_header(header)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The servers, in the order of `urls`."""
        return tuple(Address.parse(url) for url in self.urls)

    @property
    def own_headers(self) -> list[tuple[bytes, bytes]]:
        """`headers` as they are sent, names in lower case."""
        return [_read_header(header) for header in self.headers]

    @property
    def path(self) -> str:
        """Path of the API that is called, after an address's prefix."""
        return ENDPOINTS[self.endpoint]

    @property
    def prompt_kind(self) -> str:
        """`ids` or `text`."""
        return self.prompt or ("text" if self.endpoint == "chat" else "ids")

    def _check_header(self, name: bytes) -> None:
        """Raise `ConfigError` for what would be sent twice."""
        shown = f"--header {name.decode()}"
        if name in _WRITTEN_HERE:
            raise ConfigError(f"{shown}: is written by the generator itself; leave it out")
        if name == b"authorization" and self.api_key is not None:
            raise ConfigError(f"{shown}: --api-key (or POLYSLO_API_KEY) is given, too; give one of them")
        if name in SLO_HEADERS and self.slo_headers:
            raise ConfigError(f"{shown}: each request has its own from the workload; add --no-slo-headers")


def _read_header(text: str) -> tuple[bytes, bytes]:
    """Read `NAME: VALUE`. Raises `ConfigError` for what can't be sent."""
    found = _HEADER.fullmatch(text.encode())
    if found is None:
        raise ConfigError("--header: must be NAME: VALUE in printable ASCII; e.g. 'x-tenant: me'")
    return found[1].lower(), found[2].strip()
