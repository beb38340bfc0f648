"""Bundles of arrays that compiled code receives as one pointer.

A numba function that takes a NamedTuple of fifty arrays passes some four hundred words a call, counts references
on each, and takes minutes to compile. A `Native` is a record of addresses and shapes instead: compiled code gets
a pointer to it and `bundle.name` makes a view of the array there, without a reference count. In Python the same
`bundle.name` is the numpy array itself, and `bundle.handle` is what compiled functions are given.

Where a name's address stands in the record is a number in the machine code, which is cached on disk: it must not
depend on which bundles a process has imported. So every class says its `FIRST_SLOT`.

The Python object owns the arrays: keep it alive while compiled code runs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.core.typing.arraydecl import RecordAttribute
from numba.extending import intrinsic, overload_attribute

MAX_SLOTS = 128  # names over all bundles

RECORD = np.dtype(
    [("addresses", np.int64, (MAX_SLOTS,)), ("shapes", np.int64, (MAX_SLOTS, 2))],
    align=True,
)

_slot_of: dict[str, int] = {}
_kind_of: dict[str, tuple[np.dtype[Any], int]] = {}


def _field_type(self: Any, record: Any, name: str) -> Any:
    """Type a record's field; None for other names, where numba raises KeyError and never asks our attributes."""
    return record.fields[name].type if name in record.fields else None


RecordAttribute.generic_resolve = _field_type  # type: ignore[method-assign]


class Native:
    """Base of bundles: subclasses name their arrays, with dtype and number of dimensions, in `ARRAYS`.

    Arrays take the slots from `FIRST_SLOT` on, in order; `BUNDLES` are other bundles by name, each with its slot.
    A name means the same, and has the same slot, in every bundle.
    """

    FIRST_SLOT: ClassVar[int] = 0
    ARRAYS: ClassVar[dict[str, tuple[Any, int]]] = {}
    BUNDLES: ClassVar[dict[str, int]] = {}
    handle: Any  # what compiled functions take in the bundle's place

    def __init__(self, **parts: Any) -> None:
        record = np.zeros(1, dtype=RECORD)
        for name, (dtype, ndim) in self.ARRAYS.items():
            array = parts[name]
            if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous:
                raise TypeError(
                    f"{type(self).__name__}.{name}: expected C-contiguous {dtype} with {ndim} dimensions, "
                    f"got {array.dtype} with {array.ndim}"
                )
            record["addresses"][0, _slot_of[name]] = array.ctypes.data
            record["shapes"][0, _slot_of[name], :ndim] = array.shape
            setattr(self, name, array)
        for name in self.BUNDLES:
            record["addresses"][0, _slot_of[name]] = parts[name]._record.ctypes.data
            setattr(self, name, parts[name])
        self._record = record
        self.handle = record[0]

    def __init_subclass__(cls) -> None:
        for slot, (name, (dtype, ndim)) in enumerate(cls.ARRAYS.items(), cls.FIRST_SLOT):
            _define(name, slot, np.dtype(dtype), ndim)
        for name, slot in cls.BUNDLES.items():
            _define(name, slot, RECORD, 0)


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    """Turn an address into a pointer that `carray` accepts."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


_as_pointer: Any = _pointer  # numba hides the first argument from callers; type checkers don't know


def _define(name: str, slot: int, dtype: np.dtype[Any], ndim: int) -> None:
    """Teach compiled code the attribute `name` of bundles; a name means the same in every bundle."""
    if name in _slot_of:
        if (_slot_of[name], *_kind_of[name]) != (slot, dtype, ndim):
            raise TypeError(
                f"array {name!r}: {dtype} with {ndim} dimensions in slot {slot} here, "
                f"{_kind_of[name]} in slot {_slot_of[name]} in another bundle"
            )
        return
    other = next((name for name, taken in _slot_of.items() if taken == slot), None)
    if other is not None or not 0 <= slot < MAX_SLOTS:
        raise TypeError(
            f"array {name!r}: slot {slot} is {other!r}'s or beyond {MAX_SLOTS - 1}; give FIRST_SLOT another"
        )
    _slot_of[name] = slot
    _kind_of[name] = (dtype, ndim)

    @overload_attribute(types.Record, name)
    def attribute(record: Any) -> Any:
        if "addresses" not in record.fields:
            return None

        def bundle(record: Any) -> Any:
            return carray(_as_pointer(record.addresses[slot]), 1, dtype)[0]

        def line(record: Any) -> Any:
            return carray(_as_pointer(record.addresses[slot]), record.shapes[slot, 0], dtype)

        def table(record: Any) -> Any:
            shape = (record.shapes[slot, 0], record.shapes[slot, 1])
            return carray(_as_pointer(record.addresses[slot]), shape, dtype)

        return (bundle, line, table)[ndim]
