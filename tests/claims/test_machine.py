"""Machines are described as far as their systems tell of them."""

from __future__ import annotations

import os
import platform

import pytest

from polyslo.claims import machine
from polyslo.claims.machine import Machine, this_machine
from polyslo.report.data import plain, read

X86 = "processor\t: 0\nvendor_id\t: Maker\nmodel\t\t: 2\nmodel name\t: Maker Fast CPU @ 3GHz\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n"


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Let the system's own file be one that a test writes, and Python know nothing."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    return tmp_path / "cpuinfo"


def test_the_model_is_the_one_that_linux_names(cpuinfo):
    """The model's name, not its number; memory and cores are the system's, and the architecture comes, too."""
    cpuinfo.write_text(X86)
    found = this_machine()
    assert found.cpu == "Maker Fast CPU @ 3GHz"
    assert found.num_cores == os.cpu_count()
    assert str(found).startswith("Maker Fast CPU @ 3GHz, ")
    assert found.architecture in str(found)


@pytest.mark.parametrize("text", [None, ARM, ""])
def test_a_system_that_names_no_model_is_described_by_its_architecture(cpuinfo, text):
    """Without the file, or without the line in it, no model is made up."""
    if text is not None:
        cpuinfo.write_text(text)
    found = this_machine()
    assert found.cpu is None
    assert str(found).startswith(f"{platform.machine()}, ")


def test_what_python_is_told_serves_where_there_is_no_file(cpuinfo, monkeypatch):
    """Windows tells Python the model; an architecture said once more is none."""
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6")
    assert this_machine().cpu == "Intel64 Family 6"
    monkeypatch.setattr(platform, "processor", platform.machine)
    assert this_machine().cpu is None


@pytest.mark.parametrize("error", [AttributeError, ValueError, OSError])
def test_memory_that_is_not_told_is_left_out(monkeypatch, error):
    """A system without `sysconf`, or whose `sysconf` doesn't know the name."""

    def refuse(name):
        raise error(name)

    monkeypatch.setattr(os, "sysconf", refuse)
    found = this_machine()
    assert found.memory_gib is None
    assert "GiB" not in str(found)


def test_a_description_survives_the_disk():
    """What is unknown is null in JSON and unknown again."""
    for known in (Machine("CPU", 2, 7.5, "x86_64", "3.12.1", 4), Machine(None, 1, None, "riscv64", "3.11.0")):
        assert read(Machine, plain(known), "machine") == known
