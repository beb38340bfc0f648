"""What is known of one client's request besides what is decided about it: who it is, and what it has lived."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyslo.gateway.requests.body import Ask

if TYPE_CHECKING:  # carriers do without what decides
    from polyslo.gateway.relays.placement import Placement

Header = tuple[bytes, bytes]
BEST_EFFORT = "best-effort"  # the tier's label of requests without an SLO


@dataclass(slots=True)
class Passage:
    """A request's way through the gateway; times in seconds of the monotonic clock."""

    request_id: str
    ask: Ask
    tier_label: str  # as metrics and logs name its tier
    told: tuple[Header, ...] = ()  # headers of ours that its response has
    wants_receipt: bool = False
    key_name: str | None = None  # of the API key that it came with
    tenant: str | None = None  # whom it counts for
    placement: Placement | None = None  # the last one
    session: str | None = None
    trace_context: dict[str, str] = field(default_factory=dict)  # its client's, see `requests.trace_context`
    sent_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    tokens: int = 0
    prompt_tokens: int | None = None  # as the engine counted them
    is_late: bool = False
    is_relegated: bool = False
    is_resumable: bool = False  # another instance can go on with it after its client was sent some of the answer
    num_tries: int = 0  # how often it was sent
    num_failures: int = 0  # how often an instance failed it
