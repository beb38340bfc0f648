"""What became of requests, step by step, for whoever clicks on one. Bounded: the oldest stories are dropped."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from polyslo.gateway.relays.relay import Relay
from polyslo.gateway.requests.request import Request

MOST_STORIES = 500

Step = dict[str, Any]


@dataclass(slots=True)
class Story:
    """One request's steps. `relay` is None once it is over: bodies are large."""

    request_id: str
    request: Request
    relay: Relay | None
    steps: list[Step] = field(default_factory=list)
    outcome: str | None = None
    tokens: int = 0  # of a request that is over
    instance: int | None = None

    @property
    def num_tokens(self) -> int:
        """Output tokens until now."""
        if self.relay is None:
            return self.tokens
        self.relay.settle()
        return self.relay.passage.tokens

    @property
    def place(self) -> int | None:
        """The instance that it was sent to last."""
        return self.instance if self.relay is None else self.relay.at.instance


class Stories(OrderedDict[str, Story]):
    """The latest requests' stories, by request id, in the order in which they began."""

    def begin(self, relay: Relay) -> Story:
        """Begin a request's story; another one with its id is forgotten."""
        request_id = relay.passage.request_id
        story = self[request_id] = Story(request_id, relay.request, relay)
        if len(self) > MOST_STORIES:
            self.popitem(last=False)
        return story
