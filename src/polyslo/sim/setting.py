"""What stays the same over an experiment: the workload's source, the SLO mix, the profile and the fleet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyslo.core.extent import Extent
from polyslo.core.fluid import LengthMoments, colocated_rate_rps, decode_rate_rps, instance_need, prefill_rate_rps
from polyslo.core.tiers import LOST_ALONE, LOST_WITH_PROMOTION, learn_tiers
from polyslo.errors import ConfigError, InputError
from polyslo.profiles.library import DEFAULT_PROFILE, NamedProfile, load_profile
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.results import RunResult
from polyslo.sim.run import simulate
from polyslo.workload.model import WorkloadModel, load_model
from polyslo.workload.process import POISSON, ArrivalProcess
from polyslo.workload.readers import read_trace
from polyslo.workload.slo import SloMix, lay, load_slo_mix
from polyslo.workload.trace import Trace
from polyslo.workload.workload import Workload

DEFAULT_WORKLOAD = "azure2023-conv"
DEFAULT_DURATION_S = 240.0
MOMENT_SAMPLE = 50_000
MAX_REQUESTS = 20_000_000  # a run with more would take gigabytes
_ARRIVALS_STREAM = 17


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """An experiment's fixed part; `workload(rate, seed)` draws what is simulated."""

    source: Trace | WorkloadModel
    mix: SloMix  # with its tiers, learned where it says so
    named: NamedProfile
    config: FleetConfig
    arrivals: ArrivalProcess | None  # None: a trace's own; Poisson where there are none

    @classmethod
    def of(
        cls,
        *,
        workload: str | None = None,
        trace: str | Path | None = None,
        trace_format: str | None = None,
        profile: str | Path = DEFAULT_PROFILE,
        slo: str | Path = "default",
        instances: int | None = None,
        mode: str | None = None,
        arrivals: str | None = None,
        fleet: FleetConfig | None = None,
        host_s: float = 0.0,
    ) -> Setting:
        """Resolve names and files. Raises `InputError` and its kinds for whatever can't be used.

        `arrivals` is one of `polyslo.workload.process.FORMS`. Without it a trace keeps its own arrivals, on a
        stretched clock; fitted workloads and traces of lengths only get Poisson arrivals. With it the
        process replaces a trace's own arrivals, and a notice says so; `fitted` is for fitted workloads only.
        `host_s` is the engine's own time per step, which shipped profiles leave out; the profile's name tells it.
        """
        if workload is not None and trace is not None:
            raise ConfigError("--workload and --trace exclude each other, got both; leave one out")
        if trace_format is not None and trace is None:
            raise ConfigError(f"--trace-format: is for a trace, got {trace_format!r} without --trace; add --trace")
        config = fleet or FleetConfig()
        if instances is not None:
            config = replace(config, num_instances=instances)
        if mode is not None:
            config = replace(config, mode=mode)
        process = None if arrivals is None else ArrivalProcess.parse(arrivals)
        if trace is not None and process is not None and process.kind == "fitted":
            raise ConfigError(
                "--arrivals fitted is for fitted workloads, got a trace; leave it out to keep the trace's own arrivals"
            )
        source = read_trace(trace, trace_format) if trace is not None else load_model(workload or DEFAULT_WORKLOAD)
        setting = cls(source, load_slo_mix(slo), _profile(profile, host_s), config, process)
        setting._reject_frozen_clock()
        setting._reject_impossible_tiers()
        setting._reject_oversized_requests()
        return setting._learned()

    @property
    def name(self) -> str:
        """Name of the workload's source."""
        return self.source.name

    @property
    def arrivals_text(self) -> str:
        """Say how requests arrive, in a few words."""
        return "the trace's own, on a stretched clock" if self._keeps_arrivals else str(self.arrivals or POISSON)

    @property
    def tpots_ms(self) -> tuple[float, ...]:
        """Return the tiers' TPOTs, tightest first."""
        return tuple(round(t * 1e3, 6) for t in self.mix.tpots_s)

    @property
    def source_rate_rps(self) -> float:
        """Return the source's own rate; raises `InputError` where it has none."""
        rate = self.source.rate_rps
        if rate is None or not np.isfinite(rate):
            raise InputError(
                f"workload {self.name!r} has no arrival times: give rates (--rates), for it has none of its own"
            )
        return float(rate)

    def with_instances(self, num_instances: int) -> Setting:
        """Change the size of the fleet, and its tiers where they are learned for a size."""
        return replace(self, config=replace(self.config, num_instances=num_instances))._learned()

    def run(
        self, policies: Sequence[PolicySpec], rate_rps: float, seed: int, duration_s: float, num_samples: int = 0
    ) -> list[RunResult]:
        """Simulate policies one after the other on the same requests."""
        workload = self.workload(rate_rps, seed, duration_s=duration_s)
        runs = [
            simulate(
                workload,
                self.named.profile,
                policy,
                self.config,
                seed=seed,
                num_samples=num_samples,
                profile_name=self.named.name,
            )
            for policy in policies
        ]
        return [
            replace(run, rate_rps=rate_rps, notices=(*run.notices, *self.extrapolations([run.largest]))) for run in runs
        ]

    def extrapolations(self, largest: Iterable[Extent | None]) -> tuple[str, ...]:
        """Say in one notice how far runs went beyond the points of the profile; none where they did not."""
        known = [extent for extent in largest if extent is not None]
        return self.named.extrapolations(reduce(Extent.joined, known)) if known else ()

    def notices(self, rate_rps: float, duration_s: float) -> tuple[str, ...]:
        """Tell what was done to the workload to run it at a rate: rows sorted, repeated, given arrivals."""
        return self.workload(rate_rps, 0, duration_s=duration_s).notices

    def workload(self, rate_rps: float, seed: int, *, duration_s: float = DEFAULT_DURATION_S) -> Workload:
        """Draw about `duration_s` seconds of requests at a rate, each with its SLO."""
        if not 0 < rate_rps * duration_s <= MAX_REQUESTS:
            raise ConfigError(
                f"run: {rate_rps:g} requests/s over {duration_s:g} s must be from 1 to {MAX_REQUESTS:,} requests; "
                "change the rate or the duration"
            )
        count = max(2, round(rate_rps * duration_s))
        if isinstance(self.source, WorkloadModel):
            trace = self.source.sample(count, rate_rps, seed, str(self.arrivals or POISSON))
        else:
            trace = self._from_trace(self.source, count, rate_rps, seed)
        return lay(trace, self.mix, seed, self.named.profile.idle_ttft_s)

    def optimum_rps(self) -> float:
        """Return the fluid optimum of this fleet for this workload: every request at its own TPOT.

        Where tiers are bins, nobody reaches it: see `tiers_optimum_rps`.
        """
        return float(self.config.num_instances / self._need().sum())

    def full_rps(self) -> float:
        """Return the mean rate whose busiest time of day is the fluid optimum; without a day, the optimum."""
        return self.optimum_rps() / (self.arrivals.peak_over_mean if self.arrivals else 1.0)

    def tiers_optimum_rps(self) -> float:
        """Return the fluid optimum of this fleet when every request is served at its tier's TPOT."""
        return float(self.config.num_instances / self.need_per_rps().sum())

    def mean_output_tokens(self) -> float:
        """Return the mean output length of the workload."""
        return self._moments().decodes + 1.0

    def need_per_rps(self) -> npt.NDArray[np.float64]:
        """Return the instances, not whole, that a request per second takes: one number a tier, then prefill's."""
        return self._need_at(np.asarray(self.mix.tpots_s), np.asarray(self.mix.tier_shares))

    def fluid_need(self, rate_rps: float) -> float:
        """Return the instances, not whole, that the fluid optimum would use at a rate."""
        return float(rate_rps * self._need().sum())

    def with_learned_tiers(self, num_tiers: int | str) -> Setting:
        """Return the setting with the tiers that suit its lengths, profile and fleet: at most so many, or `AUTO`."""
        profile, moments, colocated = self.named.profile, self._moments(), self.config.mode == "co"
        rate_rps = colocated_rate_rps if colocated else decode_rate_rps

        def need_of(tpot_s: float) -> float:
            rate = rate_rps(profile, tpot_s, moments)
            return 1.0 / rate if rate > 0 else np.inf

        tpots_s, shares = self.mix.requested_tpots()
        learned = learn_tiers(
            tpots_s,
            need_of,
            num_tiers=num_tiers if isinstance(num_tiers, int) else None,
            num_instances=self.config.num_instances,
            other_need=0.0 if colocated else 1.0 / prefill_rate_rps(profile, moments),
            lost_instances=LOST_WITH_PROMOTION if self.config.promote else LOST_ALONE,
            weights=shares,
        )
        return replace(self, mix=self.mix.with_tiers(learned.tpots_s))

    @property
    def _keeps_arrivals(self) -> bool:
        return self.arrivals is None and isinstance(self.source, Trace) and self.source.has_arrivals

    def _learned(self) -> Setting:
        return self if self.mix.learn is None else self.with_learned_tiers(self.mix.learn)

    def _need(self) -> npt.NDArray[np.float64]:
        return self._need_at(*self.mix.requested_tpots(middle=True))

    def _need_at(self, tpots_s: npt.NDArray[np.float64], shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return instance_need(self.named.profile, tpots_s, shares, self._moments(), mode=self.config.mode)

    def _moments(self) -> LengthMoments:
        if isinstance(self.source, WorkloadModel):
            trace = self.source.sample(MOMENT_SAMPLE, 100.0, 0, "poisson")
        else:
            trace = self.source
        return LengthMoments.of(trace.input_tokens, trace.output_tokens)

    def _from_trace(self, trace: Trace, count: int, rate_rps: float, seed: int) -> Trace:
        part = trace.head(count) if len(trace) >= count else trace.repeated(count, seed)
        if self._keeps_arrivals:
            return part.at_rate(rate_rps)
        process = self.arrivals or POISSON
        drawn = part.with_arrivals(process.draw(count, rate_rps, np.random.default_rng([seed, _ARRIVALS_STREAM])))
        if trace.has_arrivals:
            notice = f"the arrivals of trace {trace.name!r} are replaced, as asked for: {process}"
        else:
            notice = f"trace {trace.name!r} has no arrivals: {process} arrivals drawn"
        return replace(drawn, notices=(*drawn.notices, notice))

    def _reject_frozen_clock(self) -> None:
        if self._keeps_arrivals and not np.isfinite(self.source.rate_rps or np.nan):
            raise InputError(
                f"trace {self.name!r}: needs requests at two different times to have a rate, all arrive at once; "
                "add --arrivals poisson to draw arrivals"
            )

    def _reject_impossible_tiers(self) -> None:
        margin = self.config.margin_ratio
        fastest_s = self.named.profile.iteration_s(1, 0, 1.0, 0.0) / (1 - margin)
        for tpot_s in self.mix.tiers_s or sorted(self.mix.requested_tpots()[0]):
            if tpot_s <= fastest_s:
                kept = f", with its margin of {100 * margin:g}%," if margin else ""
                raise InputError(
                    f"tier {self.mix.tier_text(tpot_s)}: no instance of {self.named.name} can serve it even alone; the "
                    f"fastest TPOT it can reach{kept} is {fastest_s * 1e3:.2f} ms: loosen the tier or choose another "
                    "profile"
                )

    def _reject_oversized_requests(self) -> None:
        """Refuse now what a run would refuse when it draws such a request."""
        capacity = self.config.kv_capacity_tokens or self.named.profile.kv_capacity_tokens
        holds = f"an instance of {self.named.name} holds the KV of {capacity:,}"
        if isinstance(self.source, Trace):
            tokens = self.source.input_tokens.astype(np.int64) + self.source.output_tokens
            num_oversized = int(np.count_nonzero(tokens > capacity))
            if not num_oversized:
                return
            first = int(np.argmax(tokens > capacity))
            others = f" ({num_oversized - 1:,} more are too long)" if num_oversized > 1 else ""
            raise InputError(
                f"{self.source.place(first)}: a prompt of {self.source.input_tokens[first]:,} tokens and an output of "
                f"{self.source.output_tokens[first]:,} do not fit, {holds}{others}; remove the row, or choose a "
                "profile with more memory"
            )
        lengths = self.source.lengths
        largest = int(max(lengths.input.tokens) + max(max(output.tokens) for output in lengths.outputs))
        if largest > capacity:
            raise InputError(
                f"workload {self.name!r}: has requests of up to {largest:,} tokens (prompt and output), {holds}; "
                "fit it without them, or choose a profile with more memory"
            )


def _profile(name_or_path: str | Path, host_s: float) -> NamedProfile:
    if not 0 <= host_s < np.inf:
        raise ConfigError(f"profile: host_s must be finite and >= 0, got {host_s:g}; set --host-ms")
    named = load_profile(name_or_path, host_s=host_s)
    return replace(named, name=f"{named.name} + {1e3 * host_s:g} ms a step") if host_s else named
