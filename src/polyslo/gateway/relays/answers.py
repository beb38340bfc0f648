"""How answers that no engine gives are worded: refused for its SLO, or failed by its instances."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.gateway.relays.passage import Header
from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.openai_errors import Refusal
from polyslo.wire.client import Failure


class Answers:
    """The `Refusals` of a served model."""

    def refused(self, relay: Relay) -> tuple[int, Sequence[Header], bytes]:
        """Answer a request that no instance can serve in time any more."""
        request = relay.request
        answer = Refusal(
            "late",
            f"no instance can bring the first token within {1e3 * request.ttft_s:g} ms and keep "
            f"{1e3 * request.tpot_s:g} ms a token now; ask again later, or for a looser SLO",
        ).answer()
        return answer.status, answer.headers, answer.body

    def expired(self, relay: Relay) -> tuple[int, Sequence[Header], bytes]:
        """Answer a request that took longer than any may."""
        answer = Refusal("timeout", "the request took longer than this gateway allows; ask for fewer tokens").answer()
        return answer.status, answer.headers, answer.body

    def unavailable(self, relay: Relay, failure: Failure | int) -> tuple[int, Sequence[Header], bytes]:
        """Answer a request that failed at every instance that was tried."""
        kind = "timeout" if isinstance(failure, Failure) and failure.kind == "timeout" else "failed"
        told = failure.kind if isinstance(failure, Failure) else f"status {failure}"
        tries = relay.passage.num_tries
        answer = Refusal(kind, f"the engines failed this request ({told}, {tries} tried); ask again").answer()
        return answer.status, answer.headers, answer.body
