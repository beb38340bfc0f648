"""The streams of several instances that go on with one answer, as the one stream that its client sees.

Its engines are asked to state their counts with each event (`continuation`); what the client has not asked for is
taken out again. Of the rest, the opening is left out, and identity and usage are the whole answer's. Only whole
events go on to the client, so that an answer may be taken from its instance between any two of them.
"""

from __future__ import annotations

from typing import Any

import orjson

from polyslo.gateway.belief.stream_tokens import TokenCounter
from polyslo.gateway.relays.transcript import Transcript, is_opening
from polyslo.gateway.requests.body import Ask

_END = b"\n\n"
_DONE = b"[DONE]"
_IDENTITY = ("id", "created")
_IDS = ("prompt_token_ids", "token_ids")
_LONGEST_EVENT_BYTES = 16 << 20  # the first may have a prompt's token ids


class OneStream:
    """One answer: bytes of whichever engine in, the client's bytes and tokens out."""

    def __init__(self, ask: Ask) -> None:
        self.said = Transcript(ask)
        self._ask = ask
        self._shows_each_usage = ask.includes_usage and bool(ask.body["stream_options"].get("continuous_usage_stats"))
        self._shows_ids = bool(ask.body.get("return_token_ids"))
        self._identity: dict[str, Any] = {}
        self._is_rest = False
        self._unended = b""  # the beginning of an event that is coming
        self._unread: TokenCounter | None = None  # counts what is no stream of events as engines write them

    def leave(self) -> None:
        """It is taken from its instance; half an event that came is said again by the next."""
        self._is_rest, self._unended = True, b""
        self.said.leave()

    def forget_rest(self) -> None:
        """Nothing of what the last instance said was sent to the client; another one goes on."""
        self._unended, self._unread = b"", None
        self.said.forget_rest()

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Return what the client is sent of a piece, and how many tokens that shows."""
        if self._unread is None and (b"\r" in data or len(self._unended) > _LONGEST_EVENT_BYTES):
            self._unread = TokenCounter(self._ask)  # its events don't end as JSON's can: there is never a CR inside
            self.said.give_up()
            data, self._unended = self._unended + data, b""
        if self._unread is not None:
            return data, self._unread.feed(data)
        *blocks, self._unended = (self._unended + data).split(_END)
        shown, tokens = [], 0
        for block in blocks:
            before = self.said.num_tokens
            shown.append(self._show(block))
            tokens += self.said.num_tokens - before
        return b"".join(shown), tokens

    def finish(self) -> bytes:
        """Return what was left when the engine ended its stream: a last event may have no empty line."""
        rest, self._unended = self._unended, b""
        return rest

    def _show(self, block: bytes) -> bytes:
        """Return what the client is sent of an event."""
        as_it_came = block + _END
        payload = block[5:].strip() if block.startswith(b"data:") else b""
        if payload == _DONE:
            self.said.end()
            return as_it_came
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("choices"), list):
            self.said.give_up()
            return as_it_came
        if not self._identity:
            self._identity = {name: event[name] for name in _IDENTITY if name in event}
        self.said.take(event)
        return self._rewritten(event, as_it_came)

    def _rewritten(self, event: dict[str, Any], as_it_came: bytes) -> bytes:
        """Return an event as the client sees it; b"" if it does not."""
        choices, is_changed = event["choices"], self._is_rest
        if not choices and not self._ask.includes_usage:
            return b""
        if event.get("usage") is not None:
            is_changed |= self._settle_usage(event)
        parts = [event, *(choice for choice in choices if isinstance(choice, dict))]
        for part in parts:
            is_changed |= self._hide_ids(part)
        if not self._is_rest:
            return as_it_came if not is_changed else _written(event)
        if choices and is_opening(parts[1]):
            return b""
        for part in parts[1:]:
            part.get("delta", {}).pop("role", None)
        return _written(event | self._identity)

    def _settle_usage(self, event: dict[str, Any]) -> bool:
        """Make an event's usage the whole answer's, or take it out where nobody asked; tell whether that changes it."""
        if event["choices"] and not self._shows_each_usage:
            del event["usage"]
            return True
        if self._is_rest:
            prompt, made = self.said.prompt_tokens, self.said.num_tokens
            counts = {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
            event["usage"] = event["usage"] | counts
        return self._is_rest

    def _hide_ids(self, part: dict[str, Any]) -> bool:
        """Take out token ids that nobody asked for, and the prompt's of a rest; tell whether that changes it."""
        hidden = [
            name
            for name in _IDS
            if part.get(name) is not None and (not self._shows_ids or (self._is_rest and name == "prompt_token_ids"))
        ]
        part.update(dict.fromkeys(hidden))
        return bool(hidden)


def _written(event: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + _END
