"""What a best-effort stream has said so far, at all the instances where it has been.

Kept so that another instance can go on where one was taken away. Events are read as vLLM and SGLang write them; what
is none of that, or says something besides text, can't be gone on from. How many tokens were made is what the engine
states with each event (`continuous_usage_stats`), as several may come in one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyslo.gateway.requests.body import Ask
from polyslo.gateway.requests.resumable import has_token_ids, stops

MOST_KEPT = 1 << 20  # characters and token ids of one stream
_NO_CHARACTER = "\ufffd"  # stands for bytes that are none, or none yet: which they were is not known any more
# Templates leave thoughts out of the answers before, or write their own: an answer with some would not be found again.
_THOUGHTS = ("<think>", "</think>")
_TEXT_OF_CHAT = frozenset({"role", "content"})


class Transcript:
    """The text, the token ids and the counts of one request's answer."""

    def __init__(self, ask: Ask) -> None:
        self.prompt_tokens = 0  # of the request as it came, as its first engine counted
        self.num_before = 0  # tokens that instances before this one have made
        self.limit = ask.max_tokens
        self._num_here = 0
        self._is_chat = ask.is_chat
        self._wants_ids = has_token_ids(ask)
        self._stops = stops(ask.body)
        self._pieces: list[str] = []
        self._ids: list[int] = []
        self._num_kept = 0
        self._mark = 0, 0, 0  # of pieces, ids, what is kept: all that the client has been sent
        self._is_plain = True  # nothing was said that can't be gone on from
        self._is_over = False
        self._is_held_back = False  # the last token has shown no text

    @property
    def num_tokens(self) -> int:
        """Tokens made so far."""
        return self.num_before + self._num_here

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(self._pieces)

    @property
    def token_ids(self) -> list[int] | None:
        """The same as token ids, where the prompt is."""
        return self._ids if self._wants_ids else None

    @property
    def can_go_on(self) -> bool:
        """Tell whether another instance can go on from here so that nobody sees where."""
        if not self._is_plain or self._is_over or self._is_held_back or not self.num_tokens:
            return False
        if self.limit is not None and self.num_tokens >= self.limit:
            return False
        if self._wants_ids and len(self._ids) != self.num_tokens:
            return False
        text = self.text
        seen = text[-1:] if self._wants_ids else text  # ids say which bytes there were, but for those held back
        if not text or _NO_CHARACTER in seen or self._may_be_stopping(text):
            return False
        # Templates may strip an answer that they continue; what they strip before it was said all the same.
        return not self._is_chat or (text == text.rstrip() and not any(mark in text for mark in _THOUGHTS))

    def give_up(self) -> None:
        """Take note that something was said that can't be gone on from."""
        self._is_plain = False

    def leave(self) -> None:
        """It is taken from its instance, where it can go on; another one will."""
        self.num_before, self._num_here = self.num_tokens, 0
        self._mark = len(self._pieces), len(self._ids), self._num_kept

    def forget_rest(self) -> None:
        """What an instance has said since is not sent to the client, as that failed: yet another one will go on."""
        num_pieces, num_ids, self._num_kept = self._mark
        del self._pieces[num_pieces:], self._ids[num_ids:]
        self._num_here = 0
        self._is_plain, self._is_over, self._is_held_back = True, False, False

    def end(self) -> None:
        """Take note that the engine has said all."""
        self._is_over = True

    def take(self, event: Mapping[str, Any]) -> int:
        """Take in an event; return how many tokens it shows."""
        choices = event.get("choices")
        if choices == []:
            return self._count(event, 0)
        choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        if not isinstance(choice, dict) or choice.get("index") != 0:
            self.give_up()
            return self._count(event, 1)
        text = self._text_of(choice)
        if text is None or choice.get("logprobs") is not None:
            self.give_up()
        tokens = self._count(event, 0 if is_opening(choice) or _is_closing(choice) else None)
        self._is_over |= choice.get("finish_reason") is not None
        if self._is_plain:
            self._keep(text or "", choice.get("token_ids"), tokens)
        return tokens

    def _count(self, event: Mapping[str, Any], otherwise: int | None) -> int:
        """Count what is stated, else `otherwise`; where that is None a token is a guess."""
        usage = event.get("usage")
        stated = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if isinstance(usage, dict) and isinstance(stated, int):
            tokens = max(0, stated - self._num_here)
            if not self.num_before:
                self.prompt_tokens = usage.get("prompt_tokens") or 0
        elif otherwise is None:
            self.give_up()
            tokens = 1
        else:
            tokens = otherwise
        self._num_here += tokens
        return tokens

    def _text_of(self, choice: Mapping[str, Any]) -> str | None:
        """Return what a choice says; None where that is not, or not only, text."""
        if not self._is_chat:
            text = choice.get("text")
            return text if isinstance(text, str) else None
        delta = choice.get("delta")
        if not isinstance(delta, dict) or any(delta[name] for name in delta.keys() - _TEXT_OF_CHAT):
            return None
        content = delta.get("content") or ""
        return content if isinstance(content, str) else None

    def _keep(self, text: str, ids: object, tokens: int) -> None:
        if tokens or text:
            self._is_held_back = not text
        if text:
            self._pieces.append(text)
        if self._wants_ids and isinstance(ids, list):
            self._ids += ids
        self._num_kept += len(text) + tokens
        if self._num_kept > MOST_KEPT:
            self.give_up()

    def _may_be_stopping(self, text: str) -> bool:
        """Tell whether the text ends like the beginning of a stop: the rest's engine would not know it again."""
        return any(text.endswith(stop[:length]) for stop in self._stops for length in range(1, len(stop)))


def is_opening(choice: Mapping[str, Any]) -> bool:
    """Tell whether a choice only names the role: how engines open each chat."""
    delta = choice.get("delta")
    return isinstance(delta, dict) and "role" in delta and not delta.get("content")


def _is_closing(choice: Mapping[str, Any]) -> bool:
    """Tell whether a choice only says why a chat ends: SGLang does so apart from the last text, and states no count."""
    delta = choice.get("delta")
    is_silent = isinstance(delta, dict) and all(value is None for value in delta.values())
    return is_silent and choice.get("finish_reason") is not None
