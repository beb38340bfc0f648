// One row of the fleet: a tier with its instances and its last minutes, or a group of instances outside tiers.

import { attainmentChart, levelChart } from "./chart.js";
import { Lane } from "./lane.js";
import { element, set, write } from "./markup.js";
import { count, duration, latency, plural, rate, share, standing, tierColour, tierName } from "./quantities.js";

export const GROUPS = {
  prefill: { name: "Prefill", note: "first tokens, for every tier", isFlat: false },
  draining: { name: "Draining", note: "finishing what they hold, taking nothing new", isFlat: false },
  joining: { name: "Joining", note: "get requests as soon as they answer", isFlat: true },
  idle: { name: "Idle pool", note: "ready to be claimed", isFlat: true },
  unhealthy: { name: "Unhealthy", note: "no requests until they answer again", isFlat: true },
};

export function describeGroup(group) {
  return GROUPS[group] ?? { name: group, note: "in no tier", isFlat: false };
}

export class TierRow {
  constructor(actions) {
    this.lane = new Lane("", false, actions);
    this.charts = {
      attainment: attainmentChart(),
      pending: levelChart("pending", 4),
      instances: levelChart("owned", 1),
      rps: levelChart("rate", 1),
    };
    this.texts = {};
    this.node = element(
      "div",
      { class: "row tier", role: "group" },
      this.nameCell(),
      this.laneCell(),
      this.attainmentCell(),
      this.pendingCell(),
      this.latencyCell(),
      this.historyCell(),
    );
  }

  text(name, tag = "span") {
    return (this.texts[name] = element(tag, { class: name }));
  }

  nameCell() {
    return element(
      "div",
      { class: "cell name" },
      this.text("tpot", "h3"),
      element("p", { class: "owns" }, this.text("owned"), " ", this.text("running"), " ", this.text("rate")),
    );
  }

  laneCell() {
    return element("div", { class: "cell lane-cell" }, this.lane.node, this.text("bare", "p"));
  }

  attainmentCell() {
    const figures = element("p", { class: "figures" }, this.text("minute", "b"), this.text("five"));
    return element(
      "div",
      { class: "cell attained" },
      element("p", { class: "head" }, "Attainment"),
      figures,
      this.charts.attainment.node,
    );
  }

  pendingCell() {
    const figures = element("p", { class: "figures" }, this.text("waiting", "b"), this.text("oldest"));
    return element(
      "div",
      { class: "cell queue" },
      element("p", { class: "head" }, "Pending"),
      figures,
      this.charts.pending.node,
    );
  }

  latencyCell() {
    const head = element(
      "tr",
      {},
      element("td", { class: "head" }, "Latency"),
      element("th", { scope: "col" }, "p50"),
      element("th", { scope: "col" }, "p99"),
    );
    const rows = ["ttft", "tpot"].map((kind) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, kind.toUpperCase()),
        this.text(`${kind}-p50`, "td"),
        this.text(`${kind}-p99`, "td"),
      ),
    );
    return element("div", { class: "cell latency" }, element("table", {}, head, ...rows));
  }

  historyCell() {
    const pair = (label, chart) =>
      element(
        "div",
        { class: "pair" },
        element("p", { class: "caption" }, label, " ", this.text(`${chart}-range`)),
        this.charts[chart].node,
      );
    return element("div", { class: "cell history" }, pair("Instances", "instances"), pair("Requests/s", "rps"));
  }

  draw(tier, instances, numTiers, pitch_px, width_px, chosen) {
    const name = tierName(tier);
    this.node.style.setProperty("--tone", tierColour(tier.index, numTiers));
    set(this.node, "aria-label", `Tier of ${name}`);
    this.lane.label(`Instances of the ${name} tier, most loaded first`);
    this.lane.node.hidden = instances.length === 0;
    this.lane.draw(instances, pitch_px, width_px, chosen);
    this.drawTexts(tier, name);
    this.drawCharts(tier.history ?? {});
  }

  drawTexts(tier, name) {
    const { texts } = this;
    write(texts.tpot, name);
    write(texts.owned, plural(tier.num_instances, "instance"));
    write(texts.running, `${count(tier.num_running)} running`);
    write(texts.rate, `${rate(tier.rps)} req/s`);
    write(texts.bare, tier.num_instances > 0 ? "" : bareWords(tier));
    texts.bare.hidden = tier.num_instances > 0;
    write(texts.minute, share(tier.attainment_1m));
    texts.minute.dataset.standing = standing(tier.attainment_1m);
    write(texts.five, `5 min ${share(tier.attainment_5m)}`);
    write(texts.waiting, count(tier.num_pending));
    texts.waiting.dataset.standing = tier.num_pending > 0 ? "some" : "none";
    write(texts.oldest, tier.num_pending > 0 ? `oldest ${duration(tier.oldest_pending_s)}` : "nobody waits");
    for (const kind of ["ttft", "tpot"])
      for (const rank of ["p50", "p99"]) write(texts[`${kind}-${rank}`], latency(tier[`${kind}_${rank}_s`]));
    texts["tpot-p99"].dataset.standing = (tier.tpot_p99_s ?? 0) * 1000 > tier.tpot_ms ? "missed" : "met";
  }

  drawCharts(history) {
    for (const [name, chart] of Object.entries(this.charts)) chart.draw(history[name] ?? []);
    for (const name of ["instances", "rps"])
      write(this.texts[`${name}-range`], rangeOf(history[name] ?? [], name === "rps" ? rate : count));
  }
}

export class GroupRow {
  constructor(group, actions) {
    const { name: title, isFlat } = describeGroup(group);
    this.lane = new Lane(`${title}: instances`, isFlat, actions);
    this.note = element("p", { class: "owns" });
    const name = element("div", { class: "cell name" }, element("h3", {}, title));
    this.node = element(
      "div",
      { class: `row group ${GROUPS[group] ? group : ""}`, role: "group", "aria-label": title },
      name,
      element("div", { class: "cell lane-cell" }, this.lane.node, this.note),
    );
  }

  draw(instances, note, pitch_px, width_px, chosen) {
    write(this.note, note);
    this.lane.node.hidden = instances.length === 0;
    this.lane.draw(instances, pitch_px, width_px, chosen);
  }
}

// A tier that owns nothing is normal: it gets an instance with its first request that no other can take.
function bareWords(tier) {
  if (tier.num_pending > 0) return "Owns no instance: its requests wait for one.";
  return tier.num_running > 0 ? "Owns no instance: its requests run on others’." : "Owns no instance, needs none now.";
}

function rangeOf(values, format) {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return "";
  const [low, high] = [Math.min(...known), Math.max(...known)].map(format);
  return low === high ? low : `${low} to ${high}`;
}
