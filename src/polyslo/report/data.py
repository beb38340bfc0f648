"""Results as JSON and back: what `polyslo compare --json` writes and what a page offers for download.

The layout follows the dataclasses of `polyslo.sim.results`, field by field and in their order, under a
`schema` key that names the kind and its version. JSON has neither NaN nor infinity: both become null,
and a null where a float is required is read back as NaN.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from polyslo.errors import InputError, nearest, reject_unknown_keys
from polyslo.sim.results import Comparison, RunResult

Result = TypeVar("Result", Comparison, RunResult)

SCHEMAS: dict[str, type[Comparison] | type[RunResult]] = {
    "polyslo.comparison/1": Comparison,
    "polyslo.run/1": RunResult,
}


def to_json(result: Comparison | RunResult, *, indent: int | None = None) -> str:
    """Write a result with a stable key order; equal results give equal text."""
    schema = next(name for name, kind in SCHEMAS.items() if isinstance(result, kind))
    separators = (",", ":") if indent is None else None
    document = {"schema": schema, **plain(result)}
    return json.dumps(document, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Comparison | RunResult:
    """Read what `to_json` wrote; raise `InputError` for anything else, naming the field."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"result: not JSON ({where}: {error.msg}); write the file with to_json") from error
    if not isinstance(document, dict):
        raise InputError(f"result: expected a JSON object, got {type(document).__name__}")
    schema = document.pop("schema", None)
    if schema not in SCHEMAS:
        raise InputError(f"result: unknown schema {schema!r}{nearest(str(schema), SCHEMAS)}")
    result: Comparison | RunResult = read(SCHEMAS[schema], document, "result")
    return result


def plain(value: Any) -> Any:
    """Reduce results to what JSON knows: NaN and infinity become null, numpy scalars Python numbers on the way."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"a result holds plain values only, got {type(value).__name__}")


def read(kind: Any, value: Any, where: str) -> Any:
    """Build a value of the annotated type `kind`; `where` is its path, for the error message."""
    if is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        (required,) = (a for a in get_args(kind) if a is not type(None))
        return None if value is None else read(required, value, where)
    if origin is tuple:
        return _read_tuple(get_args(kind), value, where)
    if origin is dict:
        _expect(value, dict, where)
        return {key: read(get_args(kind)[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is bool:
        if not isinstance(value, bool):
            raise InputError(f"{where}: expected true or false, got {value!r:.60}")
        return value
    if kind is float:
        return math.nan if value is None else float(_expect(value, (int, float), where))
    return _expect(value, kind, where)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(value, dict, where)
    hints = _hints(kind)
    reject_unknown_keys(value, hints, where)
    missing = [name for name in hints if name not in value]
    if missing:
        raise InputError(f"{where}: missing key {missing[0]!r}; write the file with to_json")
    return kind(**{name: read(hints[name], value[name], f"{where}.{name}") for name in hints})


def _read_tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(value, list, where)
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(read(items[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(items) != len(value):
        raise InputError(f"{where}: expected {len(items)} items, got {len(value)}")
    pairs = zip(items, value, strict=True)
    return tuple(read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(pairs))


def _expect(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{where}: expected {names}, got {value!r:.60}")
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
