"""A fitted workload: what the package ships in place of traces, and what `polyslo` draws requests from.

A model is a set of facts about a trace (quantiles, rates, variances), its source and its limits. It draws
as many requests as wanted at any rate, always the same for a seed; lengths and arrivals come from separate
streams, so that runs at two rates compare the same requests. The file format is in `model_file`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

import numpy as np

from polyslo.errors import InputError, nearest
from polyslo.workload import model_file
from polyslo.workload.burstiness import MIN_ARRIVALS, Burstiness
from polyslo.workload.lengths import Lengths
from polyslo.workload.process import ArrivalProcess
from polyslo.workload.trace import Trace

_LENGTHS_STREAM, _ARRIVALS_STREAM = 1, 2


@dataclass(frozen=True, slots=True)
class WorkloadModel:
    """Distribution of the requests of one workload.

    `rate_rps` is the source's mean rate and `burstiness` its arrival pattern, both None where only lengths
    are known. `conditions` says what was done to get here and what the model can't show.
    """

    name: str
    source: str
    licence: str
    conditions: str
    num_requests: int  # that it was fitted on; 0 for a model made from published statistics or by definition
    lengths: Lengths
    rate_rps: float | None = None
    burstiness: Burstiness | None = None

    @classmethod
    def fit(
        cls, trace: Trace, name: str | None = None, source: str = "", licence: str = "", conditions: str = ""
    ) -> Self:
        """Fit lengths, and arrivals where the trace has at least 64 of them."""
        bursty = trace.has_arrivals and len(trace) >= MIN_ARRIVALS and trace.span_s > 0
        return cls(
            name or trace.name,
            source or trace.name,
            licence,
            conditions,
            len(trace),
            Lengths.fit(trace.input_tokens, trace.output_tokens),
            round(trace.rate_rps, 4) if bursty else None,
            Burstiness.fit(trace.arrival_s) if bursty else None,
        )

    def sample(self, num_requests: int, rate_rps: float | None, seed: int, arrivals: str = "fitted") -> Trace:
        """Draw a trace of `num_requests` requests at a mean of `rate_rps` (None: the source's own rate).

        `arrivals` is one of `process.FORMS`; `fitted` is the source's burstiness, stretched to the rate
        (Poisson, with a notice, when the source has none).
        Raises `InputError` for a wrong count, rate or process.
        """
        if num_requests < 1:
            raise InputError(f"workload {self.name!r}: num_requests must be >= 1, got {num_requests}")
        rate_rps = self._rate(rate_rps)
        rng = _stream(seed, _LENGTHS_STREAM)
        input_tokens, output_tokens = self.lengths.draw(num_requests, rng)
        process = ArrivalProcess.parse(arrivals)
        arrival_s = process.draw(num_requests, rate_rps, _stream(seed, _ARRIVALS_STREAM), self.burstiness)
        notices: tuple[str, ...] = ()
        if process.kind == "fitted" and self.burstiness is None:
            notices = (f"workload {self.name!r} has no arrivals of its own: Poisson arrivals drawn",)
        return Trace(self.name, arrival_s - arrival_s[0], input_tokens, output_tokens, notices=notices)

    @property
    def mean_input_tokens(self) -> float:
        """Mean prompt length."""
        return self.lengths.input.mean

    @property
    def mean_output_tokens(self) -> float:
        """Mean output length."""
        return self.lengths.mean_output_tokens

    def save(self, path: str | Path) -> None:
        """Write the model to a JSON file of a few kB."""
        Path(path).write_text(model_file.dump(self), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model file; raises `InputError` naming the file and the key that is wrong or missing."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"workload model {path}: can't read it: {error.strerror}; check the path") from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"workload model {path}: not text in UTF-8 (byte {error.start}); check the path"
            ) from error
        return cls(**model_file.parse(text, str(path)))

    def _rate(self, rate_rps: float | None) -> float:
        if rate_rps is not None:
            return rate_rps
        if self.rate_rps is None:
            raise InputError(f"workload {self.name!r}: its source has no rate; give rate_rps")
        return self.rate_rps


def shipped_models() -> list[str]:
    """Names of the models in the package, sorted."""
    folder = resources.files("polyslo.workload").joinpath("models")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name[-5:] == ".json")


def load_model(name: str) -> WorkloadModel:
    """Load a shipped model by name, or a model file (anything ending in `.json`).

    Raises `InputError` with the nearest name when there is none of that name.
    """
    if name.endswith(".json"):
        return WorkloadModel.load(name)
    if name not in shipped_models():
        raise InputError(f"unknown workload {name!r}{nearest(name, shipped_models())}")
    file = resources.files("polyslo.workload").joinpath("models", f"{name}.json")
    return WorkloadModel(**model_file.parse(file.read_text(encoding="utf-8"), f"{name}.json"))


def _stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose,))))
