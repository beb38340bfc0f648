// Quantities as people read them. Inside all times are seconds; here they become the unit that fits.

export const NONE = "–";
export const BETWEEN = "\u00a0 ·  "; // facts of one line; a next line does not begin with it
export const TARGETS = [0.9, 0.99]; // the shares of attainment that are reported everywhere in polyslo

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

const isMissing = (value) => value === null || value === undefined || !Number.isFinite(value);

// Rounded down: 0.9996 is not 100%, and 0.9899 has not reached 0.99.
export function share(ratio) {
  if (isMissing(ratio)) return NONE;
  const tenths = Math.floor(ratio * 1000 + 1e-6);
  return tenths >= 1000 ? "100%" : `${(tenths / 10).toFixed(1)}%`;
}

export function percent(ratio) {
  return isMissing(ratio) ? NONE : `${Math.round(ratio * 100)}%`;
}

export function count(value) {
  if (isMissing(value)) return NONE;
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 1e5) return `${(value / 1e3).toFixed(0)} k`;
  return WHOLE.format(value);
}

export function rate(value) {
  if (isMissing(value)) return NONE;
  return value > 0 && value < 9.95 ? value.toFixed(1) : count(value);
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

// Below ten seconds a latency reads in milliseconds, with three figures at most.
export function latency(value) {
  if (isMissing(value)) return NONE;
  const ms = Math.abs(value) * 1000;
  const sign = value < 0 ? "−" : "";
  if (ms < 9.995) return `${sign}${ms.toFixed(1)} ms`;
  return ms < 999.5 ? `${sign}${ms.toFixed(0)} ms` : `${sign}${seconds(ms / 1000)}`;
}

function seconds(value) {
  return value < 9.995 ? `${value.toFixed(2)} s` : value < 99.95 ? `${value.toFixed(1)} s` : `${WHOLE.format(value)} s`;
}

export function duration(value) {
  if (isMissing(value)) return NONE;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 119.5) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

export function clock(unix_s) {
  return CLOCK.format(unix_s * 1000);
}

export function tierName(tier) {
  return `${Number(tier.tpot_ms.toFixed(2))} ms`;
}

// The ramp of the reports: tiers spread over all twelve steps, tight to loose.
export function tierColour(index, numTiers) {
  const step = index === null || index === undefined ? null : Math.round((index * 11) / Math.max(1, numTiers - 1));
  return step === null ? "var(--prefill)" : `var(--tier-${Math.min(11, step)})`;
}

// "missed" is below the lower target, "short" between both, "met" at the upper one.
export function standing(attainment) {
  if (isMissing(attainment)) return "unknown";
  return attainment >= TARGETS[1] ? "met" : attainment >= TARGETS[0] ? "short" : "missed";
}

// A mean of shares, each with its weight; null when nothing has any.
export function meanShare(pairs) {
  let sum = 0;
  let total = 0;
  for (const [value, weight] of pairs) {
    if (isMissing(value) || !(weight > 0)) continue;
    sum += value * weight;
    total += weight;
  }
  return total > 0 ? sum / total : null;
}
