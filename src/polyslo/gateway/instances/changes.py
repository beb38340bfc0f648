"""What changes while a gateway runs, and who may change it: instances by request and by file, grants by the file.

Puts together who lets instances join and leave (`Membership`), the requests for that (`Workers`) and the files that
are read again (`Reloads`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Protocol

from polyslo.errors import ConfigError
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.models import EndpointConfig
from polyslo.gateway.config.reconfigure import fixed_changes, granting_changes, reconfigured, too_tight_classes
from polyslo.gateway.config.reloads import Reloads, Source
from polyslo.gateway.instances.instance import CONFIGURED, LISTED
from polyslo.gateway.instances.listed import listed_endpoints
from polyslo.gateway.instances.membership import Membership, Watch
from polyslo.gateway.instances.origins import Origins
from polyslo.gateway.instances.workers import Workers
from polyslo.gateway.journal.journal import Journal
from polyslo.gateway.journal.journals import Journals
from polyslo.gateway.served_model import ServedModel
from polyslo.gateway.stopping import stop_all

log = logging.getLogger("polyslo")


class Grantor(Protocol):
    """Who lets requests in."""

    def reconfigure(self, config: GatewayConfig) -> None:
        """Grant by another configuration from the next request on."""


class Changes:
    """The changes of one gateway. `reread` returns its configuration as its file has it now; None: it has no file."""

    def __init__(
        self,
        config: GatewayConfig,
        models: Mapping[str, ServedModel],
        watches: Mapping[str, Watch],
        origins: Origins,
        fronts: Sequence[Grantor],
        journals: Journals,
        file: str | None,
        reread: Callable[[], GatewayConfig],
    ) -> None:
        self._started = self._written = config
        self.config = config  # as it holds now
        self._fronts = fronts
        self._reread = reread
        self.memberships = {
            name: Membership(model, watches[name], origins, asyncio.get_running_loop(), _telling(journals.of(name)))
            for name, model in models.items()
        }
        self.workers = Workers(self.memberships, lambda: self.config.server.admin_key_hash)
        sources = [Source("configuration", file, self._apply_configuration)] if file is not None else []
        if config.instances_file is not None:
            sources.append(Source("instances_file", config.instances_file, self._apply_instances))
        self.reloads = Reloads(sources)

    def view_keys(self) -> tuple[str, ...]:
        """Return the hashes of the keys that may look at the management port; none: everybody may."""
        server = self.config.server
        return tuple(filter(None, (server.view_key_hash, server.admin_key_hash))) if server.view_key_hash else ()

    def start(self) -> None:
        """Look at files from now on."""
        self.reloads.start()

    async def stop(self) -> None:
        """Change nothing any more."""
        await stop_all((self.reloads.stop, *(membership.stop for membership in self.memberships.values())))

    def _apply_configuration(self) -> list[str]:
        """Grant from now on what the file says; a request under way keeps what it was granted."""
        new = self._reread()
        effective = reconfigured(self._started, new)
        fixed = fixed_changes(self._started, new)
        endpoints: dict[str, tuple[EndpointConfig, ...]] = {}
        if [model.name for model in new.models] == [model.name for model in self._started.models]:
            endpoints = {model.name: model.endpoints for model in new.models}
        api_keys = {name: [engine_key(endpoint.api_key_env) for endpoint in of] for name, of in endpoints.items()}
        told = granting_changes(self.config, effective)
        self.config, self._written = effective, new
        for front in self._fronts:
            front.reconfigure(effective)
        for name, of in endpoints.items():
            told += self.memberships[name].sync(of, CONFIGURED, api_keys[name])
        if fixed:
            log.warning("configuration: %s changed; that holds from the next start on", ", ".join(fixed))
        for name in too_tight_classes(self._started, new):
            log.warning("configuration: class %s is tighter than the tightest tier until the next start", name)
        return told

    def _apply_instances(self) -> list[str]:
        """Let instances join and leave as their file says."""
        listed = listed_endpoints(self._written)
        told: list[str] = []
        for name, membership in self.memberships.items():
            endpoints = listed.get(name, ())
            told += membership.sync(endpoints, LISTED, [None] * len(endpoints))
        return told


def engine_key(variable: str | None) -> str | None:
    """Return the key that an environment variable holds; raises `ConfigError` for none, or one that is no header."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"api_key_env: {variable} must hold an engine's key in printable ASCII; set it")
    return key


def _telling(journal: Journal | None) -> Callable[[int, str, bool, int], None] | None:
    return None if journal is None else partial(_tell, journal)


def _tell(journal: Journal, i: int, name: str, is_there: bool, role: int) -> None:
    journal.changed(i, name, is_there, role, monotonic())
