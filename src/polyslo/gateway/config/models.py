"""Models and the endpoints that serve them, as the configuration states them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from polyslo.gateway.config.kinds import Choice, Flag, Mistakes, Number, Text, Texts, Whole
from polyslo.gateway.config.table import Tables, setting
from polyslo.profiles.default import DEFAULT_PROFILE

ANY_MODEL = "*"  # the one model of a gateway that learns its name from the engines
PREFILL, DECODE = "prefill", "decode"
COLOCATED, DISAGGREGATED = "co", "pd"
MIN_SLOTS = 16  # where the configuration does not say
LEARN = "learn"
START_SLACK_MS = 10.0  # before anything was learned


@dataclass(frozen=True, slots=True)
class Url:
    """The URL of an instance, scheme, host and port only; the gateway adds the path of each request."""

    allowed: str = "a URL such as http://10.0.0.1:8000"

    def read(self, value: object, path: str, mistakes: Mistakes) -> object:
        """Return the URL without a trailing slash."""
        if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s/?#@]+/*(v1/*)?", value):
            return mistakes.wrong(path, self.allowed, value)
        if value.rstrip("/").endswith("/v1"):
            bare = value.rstrip("/").removesuffix("/v1").rstrip("/")
            return mistakes.add(path, f"must have no path, got {value!r}", f"write {bare}")
        try:
            has_host = bool(urlsplit(value).hostname) and urlsplit(value).port != 0
        except ValueError:  # a port that is none
            has_host = False
        return value.rstrip("/") if has_host else mistakes.wrong(path, self.allowed, value)


@dataclass(frozen=True, slots=True)
class SlackMs:
    """`"learn"`, or milliseconds."""

    allowed: str = f'"{LEARN}" or a number from 0 to 10000'

    def read(self, value: object, path: str, mistakes: Mistakes) -> object:
        """Accept either."""
        if value == LEARN:
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 10_000
        return float(value) if is_number else mistakes.wrong(path, self.allowed, value)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One instance: an engine with the OpenAI API."""

    url: str = setting(Url(), "Scheme, host and port.")
    name: str | None = setting(Text(), "What it is called in logs and metrics; without it host and port.", None)
    role: str | None = setting(
        Choice((PREFILL, DECODE)), "In mode pd what it does; without it either, as the policy decides.", None
    )
    labels: tuple[tuple[str, str], ...] = setting(Texts(), "Free labels, told by `GET /workers`.", ())
    api_key_env: str | None = setting(
        Text("the name of an environment variable", r"[A-Za-z_]\w*"),
        "Environment variable with the key that this engine wants; keys don't belong in files.",
        None,
    )

    @property
    def title(self) -> str:
        """Name, or host and port."""
        return self.name or urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model: how fast its instances are, how requests are placed on them, and which they are."""

    name: str = setting(
        Text("a model's name"), 'The model as requests name it; "*" for the one that the engines serve.', ANY_MODEL
    )
    profile: str | None = setting(
        Text("a shipped profile's name, a file or roofline:MODEL:GPU"),
        f"Iteration times: a shipped profile, a file, or `roofline:MODEL:GPU`; without it `{DEFAULT_PROFILE}`.",
        None,
    )
    speed: float = setting(
        Number(0, 1000, above_low=True),
        "Times the profile's speed that the engines have: emulated ones with `--speed`.",
        1.0,
    )
    host_ms: float = setting(Number(0, 1000), "The engine's own time per step, which shipped profiles leave out.", 0.0)
    mode: str = setting(
        Choice((COLOCATED, DISAGGREGATED)), "Co-located, or prefill and decode on instances of their own.", COLOCATED
    )
    policy: str = setting(Text("a policy, such as polyserve"), "A policy by name, with its options.", "polyserve")
    shadow: str | None = setting(
        Text("a policy without tiers, such as lmetric"),
        "In mode co a second policy that is asked about each request too; how often it agrees is counted, what it says "
        "is not done.",
        None,
    )
    relegate: bool = setting(
        Flag(), "Serve requests that can no longer meet their TTFT after all others, instead of making all late.", True
    )
    refuse: bool = setting(Flag(), "Answer such requests with 429 instead of relegating them.", False)
    spare_ratio: float = setting(
        Number(0, 1),
        "With `dynamic_chunking`, in mode co: best-effort work also runs on a tier's instance that, with it, has this "
        "share of its KV memory and pace promised at most. 0: on idle instances only.",
        0.0,
    )
    margin_ratio: float = setting(Number(0, 0.9), "Share of each TPOT that is kept free; the engine's must equal it.",
                                  0.0)  # fmt: skip
    slack_ms: float | str = setting(
        SlackMs(),
        "Kept free of each TTFT, for what decisions don't foresee: networks, busy machines. Learned from first tokens "
        f"(it begins with {START_SLACK_MS:g}), or fixed.",
        LEARN,
    )
    max_residents: int = setting(
        Whole(1, 8192),
        "Requests in an engine's batch (vLLM: `--max-num-seqs`, SGLang: `--max-running-requests`).",
        1024,
    )
    chunk_limit_tokens: int = setting(
        Whole(16, 32_768),
        "Tokens of an engine's iteration (vLLM: `--max-num-batched-tokens`, SGLang: `--chunked-prefill-size`).",
        8192,
    )
    dynamic_chunking: bool = setting(
        Flag(),
        "Whether the engines size their chunks by the SLOs that they are sent: those with polyslo's scheduler "
        "plug-in, and emulated ones with `--dynamic-chunking`. Others keep a constant chunk.",
        False,
    )
    transfer_ms: float = setting(
        Number(0, 60_000), "In mode pd: how long KV takes from a prefill to a decode instance, beside its size.", 1.0
    )
    transfer_gb_per_s: float = setting(
        Number(0, 100_000, above_low=True), "In mode pd: how fast KV moves between instances, gigabytes a second.", 50.0
    )
    kv_capacity_tokens: int | None = setting(
        Whole(1, 10**9), "KV tokens that an instance holds; without it what the engine tells, or the profile.", None
    )
    tokenizer: str | None = setting(
        Text("the path of a tokenizer.json"),
        "Count prompts with this tokenizer (`pip install 'polyslo[tokenizer]'`) instead of estimating from bytes.",
        None,
    )
    max_instances: int | None = setting(
        Whole(1, 4096),
        "Instances that there may be at the same time, those that come later among them; without it twice as many as "
        "there are at first, and at least 16.",
        None,
    )
    endpoints: tuple[EndpointConfig, ...] = setting(
        Tables(EndpointConfig), "The model's instances, each an engine with the OpenAI API.", ()
    )

    @property
    def num_slots(self) -> int:
        """How many instances there is room for."""
        return self.max_instances or max(MIN_SLOTS, 2 * len(self.endpoints))

    @property
    def start_slack_s(self) -> float:
        """The slack, or what it begins with where it is learned."""
        return (START_SLACK_MS if isinstance(self.slack_ms, str) else self.slack_ms) / 1e3

    @property
    def profile_name(self) -> str:
        """The profile, the default where none is given."""
        return self.profile or DEFAULT_PROFILE
