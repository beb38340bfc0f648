"""How the gateway listens, what it bounds, and how it watches instances, as the configuration states it."""

from __future__ import annotations

from dataclasses import dataclass

from polyslo.gateway.config.kinds import Choice, Flag, Number, Text, Whole
from polyslo.gateway.config.slo import KEY_HASH
from polyslo.gateway.config.table import setting

PORT = Whole(0, 65_535)
LOG_LEVELS = ("debug", "info", "warning", "error")
RECEIPTS = ("asked", "never")
MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the gateway listens and what it bounds. Beyond its bounds it refuses; it never grows without end."""

    host: str = setting(Text(), "Address to listen on for requests.", "127.0.0.1")
    port: int = setting(PORT, "Port for requests; 0 takes a free one.", 30_000)
    metrics_host: str = setting(Text(), "Address to listen on for `/metrics`.", "127.0.0.1")
    metrics_port: int = setting(PORT, "Port for `/metrics`; 0 takes a free one.", 29_000)
    ext_proc_port: int | None = setting(
        PORT,
        "Port for Envoy and the gateways made of it, which ask here where to send a request (ext_proc, "
        "`pip install 'polyslo[envoy]'`); 0 takes a free one. Without it there is none.",
        None,
    )
    processes: int = setting(
        Whole(1, 256),
        "Processes that read and write HTTP. With more than one, one more decides: decisions are made in one place in "
        "any case, and limits hold over all of them together.",
        1,
    )
    compiled_relay: bool = setting(
        Flag(),
        "Let compiled code pass on what engines send, while it is nothing but tokens; on Linux, without TLS. It costs "
        "less CPU time a token.",
        True,
    )
    view_key_hash: str | None = setting(
        KEY_HASH,
        "Hash of the key for looking at the port for metrics: metrics, page, loads, instances. Sent as a bearer "
        "token, or as the password that browsers ask for; the admin key does, too. Without it nobody is asked. "
        "`GET /health` needs none.",
        None,
    )
    metrics_tls: bool = setting(
        Flag(), "Speak HTTPS on the port for metrics, too, with the certificate of `tls_cert_file`.", False
    )
    engine_ca_file: str | None = setting(
        Text(), "Certificates, PEM, by which `https` instances are known; the system's are trusted besides.", None
    )
    tls_cert_file: str | None = setting(Text(), "Certificate chain, PEM; with it the gateway speaks HTTPS.", None)
    tls_key_file: str | None = setting(Text(), "The certificate's private key, PEM.", None)
    max_body_bytes: int = setting(Whole(1024, 2 * GIB), "Largest request body; a larger one is answered with 413.",
                                  16 * MIB)  # fmt: skip
    max_header_bytes: int = setting(Whole(1024, 16 * MIB), "Largest request head.", 65_536)
    max_connections: int = setting(Whole(1, 1_000_000), "Client connections at the same time.", 16_384)
    max_concurrent_requests: int = setting(
        Whole(1, 1_000_000), "Requests at the same time, pending or running; more wait in the queue.", 8192
    )
    queue_size: int = setting(
        Whole(0, 1_000_000), "Requests that may wait for one of those places; more are answered with 429.", 1024
    )
    queue_timeout_s: float = setting(Number(0, 86_400, above_low=True), "Longest wait in that queue, then 429.", 60.0)
    request_timeout_s: float = setting(Number(0, 86_400, above_low=True), "Longest request, from its arrival.", 1800.0)
    max_retries: int = setting(
        Whole(0, 10), "How often a request is sent to another instance when one fails before its first token.", 2
    )
    shutdown_grace_s: float = setting(
        Number(0, 86_400), "On SIGTERM: how long running requests may take to end before they are cut off.", 30.0
    )
    log_level: str = setting(Choice(LOG_LEVELS), "What is logged, on stderr.", "info")
    admin_key_hash: str | None = setting(
        KEY_HASH, "Hash of the key for `POST` and `DELETE /workers`; without it they are answered with 403.", None
    )


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """When an instance counts as unhealthy, and as healthy again."""

    interval_s: float = setting(Number(0.1, 3600), "Seconds between two looks at an instance.", 10.0)
    timeout_s: float = setting(Number(0, 600, above_low=True), "How long an answer to a look may take.", 2.0)
    path: str = setting(Text('a path that begins with "/"', r"/[!-~]*"), "What is asked for.", "/health")
    failure_threshold: int = setting(
        Whole(1, 1000), "Failures in a row, looks or requests, that make an instance unhealthy.", 3
    )
    success_threshold: int = setting(Whole(1, 1000), "Good looks in a row that make it healthy again.", 2)
    connect_timeout_s: float = setting(Number(0, 600, above_low=True), "How long connecting may take.", 5.0)
    first_byte_timeout_s: float = setting(
        Number(0, 86_400, above_low=True), "How long an instance may be silent before its first token.", 300.0
    )
    idle_timeout_s: float = setting(
        Number(0, 86_400, above_low=True), "How long it may be silent between two tokens.", 60.0
    )


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """A record of what arrived and what was decided, for replay. It holds lengths and times, no prompts."""

    file: str | None = setting(Text(), "Where to write it; without it there is none.", None)
    max_bytes: int = setting(Whole(4096, 1024 * GIB), "Size at which a new file is begun.", GIB)
    keep: int = setting(Whole(1, 10_000), "Files that are kept, the one being written among them.", 4)


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What is measured and told."""

    engine_interval_s: float = setting(
        Number(0.1, 3600), "Seconds between two readings of an engine's own metrics.", 1.0
    )
    max_label_values: int = setting(
        Whole(1, 100_000), "Different tenants and models in metrics' labels; later ones count as `other`.", 100
    )
    attainment_target: float = setting(
        Number(0.5, 0.99999),
        "The attainment that is aimed at, as a share: what dashboards and alerts hold each tier against.",
        0.99,
    )
    otlp_endpoint: str | None = setting(
        Text("a URL such as http://127.0.0.1:4318", r"https?://[^\s/?#@]+(/\S*)?"),
        "Where traces are sent, by OTLP over HTTP (`pip install 'polyslo[otel]'`); `OTEL_*` environment variables say "
        "the rest.",
        None,
    )
    receipts: str = setting(
        Choice(RECEIPTS), "Decision receipts in response headers: when `x-polyslo-explain: 1` asks for them.", "asked"
    )
