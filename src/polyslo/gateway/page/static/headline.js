// The page's first words: one sentence on how things stand, then six numbers.

import { byId, element, write } from "./markup.js";
import {
  BETWEEN,
  TARGETS,
  clock,
  count,
  duration,
  meanShare,
  percent,
  plural,
  rate,
  share,
  standing,
  tierName,
} from "./quantities.js";

const MODES = { co: "co-located", pd: "prefill and decode apart" };
const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);

export class Headline {
  constructor() {
    this.figures = new Map();
    this.problems = "";
    this.model = null;
  }

  draw(state) {
    const verdict = verdictOf(state);
    write(byId("verdict"), verdict.text);
    byId("verdict").dataset.standing = verdict.standing;
    write(byId("facts"), factsOf(state));
    const figures = figuresOf(state);
    for (const figure of figures) this.drawFigure(figure);
    const attained = figures[0].value === "–" ? null : figures[0].value;
    const model = state.models.length > 1 ? state.model : null;
    document.title = [attained, model, "polyslo gateway"].filter(Boolean).join(" · ");
    this.speak(verdict, state.model);
  }

  drawFigure({ name, value, note, standing: mark }) {
    if (!this.figures.has(name)) {
      const parts = { value: element("dd", { class: "value" }), note: element("dd", { class: "note" }) };
      byId("headline").append(element("div", {}, element("dt", {}, name), parts.value, parts.note));
      this.figures.set(name, parts);
    }
    const parts = this.figures.get(name);
    write(parts.value, value);
    write(parts.note, note);
    parts.value.dataset.standing = mark ?? "met";
  }

  // Numbers move every second; only another kind of trouble, or another model, is worth being read aloud.
  speak({ text, problems }, model) {
    if (problems === this.problems && model === this.model) return;
    this.problems = problems;
    this.model = model;
    write(byId("spoken"), text);
  }
}

function factsOf({ policy, mode, model, models, version, uptime_s }) {
  const profile = models.find(({ name }) => name === model)?.profile;
  const alone = profile ? `${model} (${profile})` : model;
  const shown = models.length > 1 ? profile : alone; // among several the choice says which
  return [policy, MODES[mode] ?? mode, shown, version, `up ${duration(uptime_s)}`].filter(Boolean).join(BETWEEN);
}

function verdictOf(state) {
  if (state.instances.length === 0) return { text: "No instances yet.", standing: "unknown", problems: "none" };
  const troubles = [...missing(state), ...behind(state), ...waiting(state)];
  const hasTraffic = sum(state.tiers.map((tier) => tier.num_requests_1m)) > 0;
  const kinds = troubles.map((trouble) => trouble.kind).join();
  if (troubles.length > 0) {
    const worst = troubles.some((trouble) => trouble.standing === "missed") ? "missed" : "short";
    const comfort = hasTraffic && behind(state).length === 0 ? ["Every tier attains its SLO."] : [];
    return {
      text: [...troubles.map((trouble) => trouble.text), ...comfort].join(" "),
      standing: worst,
      problems: kinds,
    };
  }
  if (hasTraffic) {
    return { text: "Every tier attains its SLO.", standing: "met", problems: kinds };
  }
  const isNew = state.totals.requests === 0;
  const text = isNew ? "Ready. Waiting for the first request." : "Quiet. Nothing arrived in the last minute.";
  return { text, standing: "unknown", problems: kinds };
}

function missing({ pool }) {
  if (!(pool.num_unhealthy > 0)) return [];
  const verb = pool.num_unhealthy === 1 ? "is" : "are";
  return [
    { kind: "unhealthy", standing: "short", text: `${plural(pool.num_unhealthy, "instance")} ${verb} unhealthy.` },
  ];
}

function behind({ tiers }) {
  const isBehind = (tier) => tier.num_requests_1m > 0 && ["short", "missed"].includes(standing(tier.attainment_1m));
  const late = tiers.filter(isBehind);
  if (late.length === 0) return [];
  const worst = late.reduce((a, b) => (b.attainment_1m < a.attainment_1m ? b : a));
  const mark = standing(worst.attainment_1m);
  const target = percent(mark === "missed" ? TARGETS[0] : TARGETS[1]);
  const name = tierName(worst).replace(" ", "\u00a0"); // a line must not end between number and unit
  const text = `The ${name} tier attains ${share(worst.attainment_1m)}, below ${target}${othersBehind(late.length - 1)}.`;
  return [{ kind: `behind-${mark}-${worst.index}`, standing: mark, text }];
}

function othersBehind(num_tiers) {
  if (num_tiers === 0) return "";
  return num_tiers === 1 ? ", and 1 other tier falls short" : `, and ${num_tiers} other tiers fall short`;
}

// A queue is a state that passes; one that nothing can absorb is a lack of instances.
function waiting({ tiers, pool }) {
  const oldest_s = Math.max(0, ...tiers.map((tier) => tier.oldest_pending_s ?? 0));
  if (pool.num_idle > 0 || oldest_s < 1) return [];
  return [
    { kind: "full", standing: "short", text: `Requests wait up to ${duration(oldest_s)} and the pool is empty.` },
  ];
}

function figuresOf({ tiers, pool, instances, totals, now_unix_s }) {
  const minute = meanShare(tiers.map((tier) => [tier.attainment_1m, tier.num_requests_1m]));
  const five = meanShare(tiers.map((tier) => [tier.attainment_5m, sum(tier.history?.rps ?? [tier.rps])]));
  const num_pending = sum(tiers.map((tier) => tier.num_pending));
  const oldest_s = Math.max(0, ...tiers.map((tier) => tier.oldest_pending_s ?? 0));
  return [
    { name: "Attainment, 1 min", value: share(minute), note: `5 min ${share(five)}`, standing: standing(minute) },
    {
      name: "In flight",
      value: count(totals.in_flight),
      note: `${count(sum(tiers.map((tier) => tier.num_running)))} running`,
    },
    { name: "Requests/s", value: rate(sum(tiers.map((tier) => tier.rps))), note: `${count(totals.requests)} so far` },
    { name: "Tokens/s", value: count(totals.tokens_per_s), note: `at ${clock(now_unix_s)}` },
    {
      name: "Pending",
      value: count(num_pending),
      note: num_pending > 0 ? `oldest ${duration(oldest_s)}` : "nobody waits",
    },
    { name: "Idle pool", value: count(pool.num_idle), note: `of ${plural(instances.length, "instance")}` },
  ];
}
