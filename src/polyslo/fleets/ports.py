"""Ports for processes that begin to listen later: an engine binds its port after it has loaded, up to minutes on."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from itertools import islice
from pathlib import Path

from polyslo.errors import ConfigError
from polyslo.fleets.engine_command import HOST

EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# What IANA leaves to outgoing connections; for systems that do not say what theirs is.
COMMON_RANGE = (49_152, 65_535)
FIRST, LAST = 20_000, 65_535
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now, all different, none returned before in this process.

    They lie outside the range that the system takes the ports of outgoing connections from: in that range any
    connection can have a port before the process that it was meant for binds it. At random, so that two programs
    that ask at the same time hardly get the same. Raises `ConfigError` where so many are not to be had.
    """
    low, high = _ephemeral_range()
    candidates = [*range(FIRST, LAST + 1)]
    random.shuffle(candidates)
    candidates.sort(key=lambda port: low <= port <= high)  # those in the range only where no others are left
    found = [*islice((port for port in candidates if port not in _given and _is_free(port)), count)]
    if len(found) < count:
        missing = f"{count} ports are needed, {len(found)} are free from {FIRST} to {LAST}"
        raise ConfigError(f"{missing}; start fewer processes")
    _given.update(found)
    return found


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tried, suppress(OSError):
        tried.bind((HOST, port))
        return True
    return False


def _ephemeral_range() -> tuple[int, int]:
    try:
        low, high = EPHEMERAL_RANGE.read_text().split()
    except OSError:
        return COMMON_RANGE
    return int(low), int(high)
