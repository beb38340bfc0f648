"""What a gateway keeps for later questions, as the configuration asks: journals, one a model, and shadow policies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.models import ModelConfig
from polyslo.gateway.fleets import ROLES, live_config
from polyslo.gateway.journal.files import JournalFiles
from polyslo.gateway.journal.head import JournalHead
from polyslo.gateway.journal.journal import Journal
from polyslo.gateway.journal.outcomes import JournalOutcomes
from polyslo.gateway.journal.shadow import Shadow
from polyslo.gateway.journal.writer import JournalWriter
from polyslo.gateway.observability.journal_metrics import JournalMetrics
from polyslo.gateway.observability.metrics import Metrics
from polyslo.gateway.relays.listeners import Listener
from polyslo.gateway.served_model import ServedModel
from polyslo.gateway.stopping import stop_all


class Journals:
    """Keeps a journal of each model where the configuration asks for it."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._of_model: dict[str, Journal] = {}
        self._writers: list[JournalWriter] = []
        if config.journal.file is not None:
            self._of_model = {model.name: Journal() for model in config.models}

    def listeners(self, model: str) -> list[Listener]:
        """Return who must hear what becomes of a model's requests."""
        journal = self.of(model)
        return [JournalOutcomes(journal)] if journal is not None else []

    def of(self, model: str) -> Journal | None:
        """Return a model's journal; None where none is kept."""
        return self._of_model.get(model)

    def start(self, models: Mapping[str, ServedModel], policies: Mapping[str, str], metrics: Metrics) -> None:
        """Begin to record and to write, and to ask shadow policies; `policies` are those that models really have."""
        metrics.register(JournalMetrics(models, self._of_model))
        for model in self._config.models:
            if model.shadow is not None:
                journal = self.of(model.name)
                tell = journal.shadowed if journal is not None else None
                models[model.name].shadow = Shadow(model.shadow, models[model.name].decider, tell)
        for path, model in zip(self._paths(), self._config.models, strict=False):
            journal = self._of_model[model.name]
            files = JournalFiles(path, self._config.journal.keep)
            served = models[model.name]
            head = journal_head(model, policies[model.name], len(served.fleet.requests))
            writer = JournalWriter(
                journal,
                served.decider,
                head,
                files,
                max_bytes=self._config.journal.max_bytes,
                there=partial(_there, served),
            )
            writer.start()
            self._writers.append(writer)

    async def stop(self) -> None:
        """Write what is left."""
        await stop_all(writer.stop for writer in self._writers)

    def _paths(self) -> list[Path]:
        """Return a path for each journal: the configured one, with the model's name in it where there are several."""
        file = self._config.journal.file
        if file is None:
            return []
        path = Path(file)
        if len(self._of_model) == 1:
            return [path]
        return [
            path.with_name(f"{path.stem}-{number}-{re.sub(r'[^0-9A-Za-z.]+', '-', name)[:64]}{path.suffix}")
            for number, name in enumerate(self._of_model, start=1)
        ]


def _there(model: ServedModel) -> tuple[list[str], list[int]]:
    """Return the names and roles of a model's instances."""
    return [instance.name for instance in model.instances], [ROLES[instance.role] for instance in model.instances]


def journal_head(model: ModelConfig, policy: str, num_records: int) -> JournalHead:
    """Return what a model's journal says of it."""
    return JournalHead(
        policy=policy,
        fleet=asdict(live_config(model)),
        num_records=num_records,
        model=model.name,
        profile=model.profile_name + (f" x {model.speed:g}" if model.speed != 1.0 else ""),
        dynamic_chunking=model.dynamic_chunking,
        shadow=model.shadow,
    )
