"""Label values that clients choose, bounded: whoever sends a new name with every request must not fill the memory."""

from __future__ import annotations

from collections.abc import Iterable

OTHER = "other"
MOST_CHARS = 128


class LabelValues:
    """The values of a label: those known beforehand, and so many more; all later ones count as `other`."""

    def __init__(self, most: int, known: Iterable[str] = ()) -> None:
        self._values = {value: value[:MOST_CHARS] for value in known}
        self._room = most

    def of(self, value: str) -> str:
        """Return the label of a value."""
        label = self._values.get(value)
        if label is not None:
            return label
        if self._room == 0:
            return OTHER
        self._room -= 1
        label = self._values[value] = value[:MOST_CHARS]
        return label
