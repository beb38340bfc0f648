"""What a PromQL expression names: its metrics, the labels that it matches and groups by, and its functions."""

from __future__ import annotations

import re
from dataclasses import dataclass

_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^{}]*)\}")
_MATCHER = re.compile(r"\s*([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*\"(?:[^\"\\]|\\.)*\"\s*")
_WINDOW = re.compile(r"\[[^\[\]]*\]|\boffset\s+\w+")
_WORD = re.compile(r"[a-zA-Z_:][\w:]*")
# All that our expressions use besides metrics; a word that is none of these is a mistake.
FUNCTIONS = frozenset(
    {"sum", "avg", "min", "max", "quantile", "topk", "rate", "increase", "histogram_quantile", "scalar"}
    | {"min_over_time", "and", "or", "unless"}
)


@dataclass(frozen=True, slots=True)
class Named:
    """What an expression names."""

    metrics: frozenset[str]
    matched: dict[str, frozenset[str]]  # by metric
    grouped: frozenset[str]


def read_expression(expr: str) -> Named:
    """Return what an expression names. Raises `ValueError` for what is none of metric, label, function, number."""
    matched: dict[str, set[str]] = {}
    for metric, inside in _SELECTOR.findall(expr):
        matchers = [part for part in _split(inside) if part.strip()]
        for part in matchers:
            found = _MATCHER.fullmatch(part)
            if found is None:
                raise ValueError(f"not a label matcher: {part!r} in {expr!r}")
            matched.setdefault(metric, set()).add(found[1])
    grouped = {label.strip() for _, labels in _GROUPING.findall(expr) for label in labels.split(",") if label.strip()}
    rest = _WINDOW.sub(" ", _GROUPING.sub(" ", _SELECTOR.sub(r" \1 ", expr)))
    words = set(_WORD.findall(re.sub(r"\b[\d.]+(e-?\d+)?\b", " ", rest)))
    metrics = {word for word in words if re.match(r"polyslo[_:]|process_", word)}
    strangers = words - metrics - FUNCTIONS
    if strangers:
        raise ValueError(f"neither metric nor function: {sorted(strangers)} in {expr!r}")
    if expr.count("(") != expr.count(")"):
        raise ValueError(f"parentheses don't match in {expr!r}")
    return Named(frozenset(metrics), {name: frozenset(labels) for name, labels in matched.items()}, frozenset(grouped))


def _split(inside: str) -> list[str]:
    """Split matchers at commas that are in no text."""
    return re.findall(r"(?:[^,\"]|\"(?:[^\"\\]|\\.)*\")+", inside)
