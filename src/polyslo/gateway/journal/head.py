"""What a journal file says of itself first: who wrote it, and the model that was served.

With the state that follows it (`state.py`: the profile's numbers, the whole belief) a file needs no other file
to be replayed. It holds no prompts, no keys and no names of clients.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from typing import Any

from polyslo.compiled import fingerprint
from polyslo.core.state import DECODE_ONLY, PREFILL_ONLY
from polyslo.errors import ConfigError, InputError
from polyslo.sim.fleet import FleetConfig

FORMAT = 1
DECISIONS = "polyslo.policies.live"  # the module below which everything that decides lies


@dataclass(frozen=True, slots=True)
class JournalHead:
    """A file's first words. `run` and `sequence` tell which files follow each other without a gap."""

    policy: str  # as configured
    fleet: Mapping[str, Any]  # a `FleetConfig`, field by field
    num_records: int
    model: str = ""
    profile: str = ""
    dynamic_chunking: bool = True  # the engines size their chunks by the SLOs that they are sent
    shadow: str | None = None
    instances: Sequence[str] = ()  # those that were there when the file began, by name
    run: str = ""  # of a gateway process
    sequence: int = 0  # of a file within it
    began_s: float = 0.0  # the monotonic clock of all times in the file, and
    began_unix_s: float = 0.0  # the time of day at the same moment
    format: int = FORMAT
    polyslo: str = field(default_factory=lambda: version("polyslo"))
    fingerprint: str = field(default_factory=lambda: fingerprint(DECISIONS))
    machine: str = field(default_factory=platform.machine)

    @property
    def num_instances(self) -> int:
        """Instances that were there when the file began."""
        return self.config.num_instances

    @property
    def config(self) -> FleetConfig:
        """The fleet's configuration. Raises `InputError` when it is of another version."""
        try:
            return FleetConfig(**self.fleet)
        except (TypeError, ConfigError) as error:
            raise InputError(
                f"the journal's fleet is none of this version ({error}); use polyslo {self.polyslo}"
            ) from error

    def with_instances(self, names: Sequence[str], roles: Sequence[int]) -> JournalHead:
        """Return it with the instances that are there now, and what they may do; the fleet has at least one."""
        fleet = dict(self.fleet)
        if names:
            fleet |= {"num_instances": len(names), "num_prefill_only": roles.count(PREFILL_ONLY)}
            fleet |= {"num_decode_only": roles.count(DECODE_ONLY)}
        return replace(self, instances=tuple(names), fleet=fleet)

    def encode(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, text: bytes) -> JournalHead:
        """Read what `encode` wrote. Raises `InputError` for another version's."""
        try:
            told = json.loads(text)
            written_by, told_format = told["polyslo"], told["format"]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError("the journal's head can't be read; name a file that [journal] wrote") from error
        if told_format != FORMAT:
            raise InputError(
                f"the journal has format {told_format}, polyslo {version('polyslo')} reads format {FORMAT}; "
                f"replay it with polyslo {written_by}"
            )
        known = {entry.name for entry in fields(cls)}
        given = {name: value for name, value in told.items() if name in known}
        return cls(**given | {"instances": tuple(given.get("instances", ()))})

    def notices(self) -> list[str]:
        """Say what could make decisions differ from the live ones though nothing is wrong."""
        found = []
        if self.polyslo != version("polyslo"):
            found.append(f"written by polyslo {self.polyslo}, this is {version('polyslo')}: decisions may differ")
        elif self.fingerprint != fingerprint(DECISIONS):
            found.append(
                "the code that decides, or its compiler, was another when it was written: decisions may differ"
            )
        if self.machine != platform.machine():
            found.append(
                f"written on {self.machine}, this is {platform.machine()}: the last bits of numbers may differ"
            )
        return found
