"""Ports that processes bind long after they were given them."""

import socket

import pytest

from polyslo.errors import ConfigError
from polyslo.fleets import ports
from polyslo.fleets.ports import LAST, free_ports


@pytest.fixture
def say_range(tmp_path, monkeypatch):
    """Have the system say which ports outgoing connections have."""

    def say(text):
        file = tmp_path / "range"
        file.write_text(text)
        monkeypatch.setattr(ports, "EPHEMERAL_RANGE", file)

    return say


@pytest.mark.parametrize(("low", "high"), [(32_768, 60_999), (1024, 64_999), (20_000, 40_000)])
def test_outgoing_connections_get_none_of_them(say_range, low, high):
    """Whatever the range; all differ, also from earlier ones, and can be bound."""
    say_range(f"{low}\t{high}\n")
    found = free_ports(30) + free_ports(30)
    assert len(set(found)) == 60
    assert not [port for port in found if low <= port <= high]
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_system_that_does_not_say(tmp_path, monkeypatch):
    """Has the usual range."""
    monkeypatch.setattr(ports, "EPHEMERAL_RANGE", tmp_path / "none")
    assert max(free_ports(20)) < 49_152


def test_where_connections_have_all_ports(say_range):
    """One of those is better than none."""
    say_range(f"1024 {LAST}")
    assert len(free_ports(5)) == 5


def test_a_port_that_somebody_has_is_left_out(monkeypatch):
    """And too few are said to be too few."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "FIRST", port)
        monkeypatch.setattr(ports, "LAST", port)
        with pytest.raises(ConfigError, match="1 ports are needed, 0 are free"):
            free_ports(1)
