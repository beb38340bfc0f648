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

import numba.core.cgutils
import numba.extending
import numba.np.arrayobj
import numpy as np
from numba import types
from numba.core.typing.arraydecl import RecordAttribute
from numba.extending import intrinsic

cgutils: Any = numba.core.cgutils  # these are untyped
arrayobj: Any = numba.np.arrayobj
lower_getattr: Any = numba.extending.lower_getattr
from_dtype: Any = numba.np.numpy_support.from_dtype

MAX_SLOTS = 128  # names over all bundles

RECORD = np.dtype(
    [("addresses", np.int64, (MAX_SLOTS,)), ("shapes", np.int64, (MAX_SLOTS, 2))],
    align=True,
)

RECORD_TYPE = from_dtype(RECORD)

_slot_of: dict[str, int] = {}
_type_of: dict[str, Any] = {}  # numba's


def _resolve(self: Any, record: Any, name: str) -> Any:
    """Type what a record has by a name: a field; in bundles, an array; None where it has nothing."""
    if name in record.fields:
        return record.fields[name].type
    return _type_of.get(name) if _is_bundle(record) else None


def _is_bundle(record: Any) -> bool:
    return "addresses" in record.fields


RecordAttribute.generic_resolve = _resolve  # type: ignore[method-assign]


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
def _move(typing_context: Any, table: Any, row: Any, start: Any, target: Any, count: Any) -> Any:
    """Move entries of a row as one block; a loop that shifts a row onto itself is compiled entry by entry."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table_type = signature.args[0]
        array = context.make_array(table_type)(context, builder, arguments[0])
        source, place = (
            cgutils.get_item_pointer(context, builder, table_type, array, [arguments[1], index])
            for index in arguments[2:4]
        )
        item_bytes = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(table_type.dtype)))
        cgutils.raw_memmove(builder, place, source, arguments[4], item_bytes)
        return context.get_dummy_value()

    return types.none(table, types.intp, types.intp, types.intp, types.intp), generate


# (table, row, start, target, count): both ends may overlap. Indices are not checked, and negative ones do not wrap.
move_entries: Any = _move


def _define(name: str, slot: int, dtype: np.dtype[Any], ndim: int) -> None:
    """Teach compiled code the attribute `name` of bundles; a name means the same in every bundle."""
    if ndim > 2:
        raise TypeError(f"array {name!r} has {ndim} dimensions; bundles hold lines and tables")
    attribute_type = types.Array(from_dtype(dtype), ndim, "C") if ndim else RECORD_TYPE
    if name in _slot_of:
        if (_slot_of[name], _type_of[name]) != (slot, attribute_type):
            raise TypeError(
                f"array {name!r}: {attribute_type} in slot {slot} here, "
                f"{_type_of[name]} in slot {_slot_of[name]} in another bundle"
            )
        return
    other = next((name for name, taken in _slot_of.items() if taken == slot), None)
    if other is not None or not 0 <= slot < MAX_SLOTS:
        raise TypeError(
            f"array {name!r}: slot {slot} is {other!r}'s or beyond {MAX_SLOTS - 1}; give FIRST_SLOT another"
        )
    _slot_of[name] = slot
    _type_of[name] = attribute_type

    @lower_getattr(types.Record, name)
    def read(context: Any, builder: Any, record_type: Any, record: Any) -> Any:
        if not _is_bundle(record_type):
            return arrayobj.record_getattr(context, builder, record_type, record, name)
        address = _load(context, builder, record, record_type.offset("addresses"), slot)
        if ndim == 0:
            return builder.inttoptr(address, context.get_value_type(RECORD_TYPE))
        shape = [_load(context, builder, record, record_type.offset("shapes"), 2 * slot + d) for d in range(ndim)]
        array = context.make_array(attribute_type)(context, builder)
        item_bytes = context.get_constant(types.intp, dtype.itemsize)
        strides = [item_bytes] if ndim == 1 else [builder.mul(item_bytes, shape[1]), item_bytes]
        data = builder.inttoptr(address, array.data.type)
        arrayobj.populate_array(array, data=data, shape=shape, strides=strides, itemsize=item_bytes, meminfo=None)
        return array._getvalue()


def _load(context: Any, builder: Any, record: Any, offset: int, index: int) -> Any:
    """Load a number of a bundle's record. It never changes: LLVM need not load it again after whatever is written."""
    place = cgutils.get_record_member(builder, record, offset + 8 * index, context.get_value_type(types.int64))
    number = builder.load(place)
    number.set_metadata("invariant.load", builder.module.add_metadata([]))
    return number
