"""What stays the same over an experiment: the workload's source, the SLO mix, the profile and the fleet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyslo.core.fluid import LengthMoments, colocated_rate_rps, decode_rate_rps, instance_need, prefill_rate_rps
from polyslo.core.tiers import LOST_ALONE, LOST_WITH_PROMOTION, learn_tiers
from polyslo.errors import ConfigError, InputError
from polyslo.profiles.library import DEFAULT_PROFILE, NamedProfile, load_profile
from polyslo.sim.fleet import FleetConfig
from polyslo.workload.arrivals import poisson
from polyslo.workload.model import WorkloadModel, load_model
from polyslo.workload.readers import read_trace
from polyslo.workload.slo import SloMix, lay, load_slo_mix
from polyslo.workload.trace import Trace
from polyslo.workload.workload import Workload

DEFAULT_WORKLOAD = "azure2023-conv"
DEFAULT_DURATION_S = 240.0
MOMENT_SAMPLE = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """An experiment's fixed part; `workload(rate, seed)` draws what is simulated."""

    source: Trace | WorkloadModel
    mix: SloMix  # with its tiers, learned where it says so
    named: NamedProfile
    config: FleetConfig
    arrivals: str

    @classmethod
    def of(
        cls,
        *,
        workload: str | None = None,
        trace: str | Path | None = None,
        profile: str | Path = DEFAULT_PROFILE,
        slo: str | Path = "default",
        instances: int | None = None,
        mode: str | None = None,
        arrivals: str = "poisson",
        fleet: FleetConfig | None = None,
    ) -> Setting:
        """Resolve names and files. Raises `InputError` and its kinds for whatever can't be used.

        `arrivals` (poisson, fitted, gamma:CV) is for fitted workloads and traces without arrivals; a trace
        with arrivals keeps its own, on a stretched clock.
        """
        if workload is not None and trace is not None:
            raise ConfigError("give a workload's name or a trace's file, not both: got --workload and --trace")
        config = fleet or FleetConfig()
        if instances is not None:
            config = replace(config, num_instances=instances)
        if mode is not None:
            config = replace(config, mode=mode)
        source = read_trace(trace) if trace is not None else load_model(workload or DEFAULT_WORKLOAD)
        setting = cls(source, load_slo_mix(slo), load_profile(profile), config, arrivals)
        setting._reject_impossible_tiers()
        return setting.with_learned_tiers(setting.mix.learn) if setting.mix.learn is not None else setting

    @property
    def name(self) -> str:
        """Name of the workload's source."""
        return self.source.name

    @property
    def source_rate_rps(self) -> float:
        """Return the source's own rate; raises `InputError` where it has none."""
        rate = self.source.rate_rps
        if rate is None or not np.isfinite(rate):
            raise InputError(f"workload {self.name!r} has no arrival times: give rates (--rates), not a scale")
        return float(rate)

    def workload(self, rate_rps: float, seed: int, *, duration_s: float = DEFAULT_DURATION_S) -> Workload:
        """Draw about `duration_s` seconds of requests at a rate, each with its SLO."""
        count = max(2, round(rate_rps * duration_s))
        if isinstance(self.source, WorkloadModel):
            trace = self.source.sample(count, rate_rps, seed, self.arrivals)
        else:
            trace = self._from_trace(self.source, count, rate_rps, seed)
        return lay(trace, self.mix, seed, self.named.profile.idle_ttft_s)

    def optimum_rps(self) -> float:
        """Return the fluid optimum of this fleet for this workload: every request at its own TPOT.

        Where tiers are bins, nobody reaches it: see `tiers_optimum_rps`.
        """
        return float(self.config.num_instances / self._need().sum())

    def tiers_optimum_rps(self) -> float:
        """Return the fluid optimum of this fleet when every request is served at its tier's TPOT."""
        need = self._need_at(np.asarray(self.mix.tpots_s), np.asarray(self.mix.tier_shares))
        return float(self.config.num_instances / need.sum())

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

    @staticmethod
    def _from_trace(trace: Trace, count: int, rate_rps: float, seed: int) -> Trace:
        part = trace.head(count) if len(trace) >= count else trace.repeated(count, seed)
        if not part.has_arrivals:
            return part.with_arrivals(poisson(count, rate_rps, np.random.default_rng([seed, 17])))
        return part.at_rate(rate_rps)

    def _reject_impossible_tiers(self) -> None:
        fastest_s = self.named.profile.iteration_s(1, 0, 1.0, 0.0)
        for tpot_s in self.mix.tiers_s or sorted(self.mix.requested_tpots()[0]):
            if tpot_s * (1 - self.config.margin_ratio) <= fastest_s:
                raise InputError(
                    f"tier {tpot_s * 1e3:g} ms: no instance of {self.named.name} can serve it even alone; the "
                    f"fastest TPOT it can reach is {fastest_s * 1e3:.2f} ms: loosen the tier or choose another profile"
                )
