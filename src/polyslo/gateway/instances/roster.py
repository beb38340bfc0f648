"""The instances of a model, by their slots in the fleet.

The fleet's arrays have room for a fixed number of instances; slots without one are closed as ABSENT. Whoever goes
through a roster meets the instances that are there, which need not have the first slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polyslo.gateway.instances.instance import Instance


class Roster:
    """Instances by slot: `roster[i]` is that of slot `i`."""

    def __init__(self, instances: Sequence[Instance], num_slots: int) -> None:
        """Begin with instances in the first slots, each with its own as its index."""
        self._slots: list[Instance | None] = [*instances, *[None] * (num_slots - len(instances))]

    def __getitem__(self, i: int) -> Instance:
        """Return the instance of a slot; raises `KeyError` for one without."""
        instance = self._slots[i]
        if instance is None:
            raise KeyError(i)
        return instance

    def __iter__(self) -> Iterator[Instance]:
        """Go through those that are there, also while some come or go."""
        return iter([instance for instance in self._slots if instance is not None])

    def __len__(self) -> int:
        """Return how many are there."""
        return len(self._slots) - self._slots.count(None)

    @property
    def num_slots(self) -> int:
        """How many there may be."""
        return len(self._slots)

    @property
    def vacant(self) -> list[int]:
        """The slots without an instance."""
        return [i for i, instance in enumerate(self._slots) if instance is None]

    def get(self, i: int) -> Instance | None:
        """Return the instance of a slot, if there is one."""
        return self._slots[i]

    def find(self, name_or_url: str) -> Instance | None:
        """Return the instance that is called so, or has this URL."""
        wanted = name_or_url.rstrip("/")
        return next((instance for instance in self if wanted in (instance.name, instance.url)), None)

    def put(self, instance: Instance) -> None:
        """Take in an instance, in the free slot that is its index."""
        assert self._slots[instance.index] is None, f"slot {instance.index} is taken"
        self._slots[instance.index] = instance

    def remove(self, i: int) -> None:
        """Take note that the instance of a slot is gone."""
        self._slots[i] = None
