"""How Python becomes machine code: one specialisation a function, attributes of bundles in any order."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from polyslo.compiled import compiled
from polyslo.core.state import Fleet
from polyslo.native import Native

DEFINE_AND_READ = """
class {name}(Native):
    FIRST_SLOT = {slot}
    ARRAYS = {{"{field}": (np.int64, 1)}}


@compiled
def read_{field}(bundle):
    return bundle.{field}[0]


bundle = {name}({field}=np.array([{value}]))
print(read_{field}(bundle.handle))
"""
LATER_BUNDLE = (
    """
import numpy as np

from polyslo.compiled import compiled
from polyslo.native import Native
"""
    + DEFINE_AND_READ.format(name="Early", field="early_numbers", value=3, slot=100)
    + DEFINE_AND_READ.format(name="Late", field="late_numbers", value=4, slot=110)
)


INSTALLED = """
from polyslo.compiled import compiled


@compiled
def thrice(x):
    return 3 * x
"""
ASK = "import installed; from polyslo.warmth import is_warm as w; "
ASK += "print(w('installed'), installed.thrice(1), w('installed'))"


@compiled
def _twice(x):
    return 2 * x


@compiled
def _call_twice(x):
    return _twice(3) + _twice(x)


def test_constants_and_variables_share_one_specialisation():
    """A function called with a constant and with a variable is compiled once."""
    assert _call_twice(5) == 16
    _call_twice.recompile()  # machine code from the cache would not have asked for the callee
    assert len(_twice.signatures) == 1


def test_a_bundle_may_be_defined_after_code_was_compiled(tmp_path):
    """Attributes that are taught to compiled code after the first compilation work as well."""
    script = tmp_path / "later_bundle.py"
    script.write_text(LATER_BUNDLE)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["3", "4"]


def test_what_another_installation_has_compiled_is_not_warm(tmp_path):
    """The same source at another path is compiled again, so it is cold until then: whoever waits is told."""
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "installed.py").write_text(INSTALLED)
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        ran = [
            subprocess.run(
                [sys.executable, "-c", ASK], cwd=folder, env=environment, capture_output=True, text=True, check=True
            )
            for _ in range(2)
        ]
        assert [run.stdout.split() for run in ran] == [["False", "3", "True"], ["True", "3", "True"]]


def test_a_name_means_the_same_in_every_bundle():
    """Another dtype for a name that a bundle has already is refused, naming both."""
    assert "tpots_s" in Fleet.ARRAYS
    with pytest.raises(TypeError, match=r"'tpots_s': array\(int64, 1d, C\) in slot 100 here, array\(float64"):
        type("Other", (Native,), {"FIRST_SLOT": 100, "ARRAYS": {"tpots_s": (np.int64, 1)}})


def test_two_names_never_share_a_slot():
    """A bundle that would take the slots of another is refused, naming the one that has it."""
    with pytest.raises(TypeError, match=r"'mine': slot 8 is 'settings'"):
        type("Other", (Native,), {"FIRST_SLOT": Fleet.FIRST_SLOT, "ARRAYS": {"mine": (np.int64, 1)}})


def test_machine_code_does_not_depend_on_what_a_process_has_imported():
    """The slots of the simulator's arrays are the same whether the gateway's were defined before them or never."""
    show = "import polyslo.sim.world as w; from polyslo.native import _slot_of as s; "
    show += "print(sorted((n, s[n]) for n in (*w.World.ARRAYS, *w.World.BUNDLES)))"
    told = [
        subprocess.run([sys.executable, "-c", first + show], capture_output=True, text=True, check=True).stdout
        for first in ("", "import polyslo.core.streams; ")
    ]
    assert told[0] == told[1]
