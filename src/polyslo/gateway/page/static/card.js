// The details of one instance, beside its bar; at the foot of the window where there is no room beside anything.

import { element, set, write } from "./markup.js";
import { count, duration, latency, percent, tierColour, tierName } from "./quantities.js";

const MARGIN_PX = 10;
const SHEET_BELOW_PX = 640;
const GROUP_NAMES = { prefill: "prefill", idle: "idle pool", unhealthy: "unhealthy", draining: "draining", joining: "joining" };

export class Card {
  constructor(node, close) {
    this.node = node;
    this.facts = new Map();
    this.title = element("h3");
    this.name = element("p", { class: "address" });
    this.close = element(
      "button",
      { type: "button", class: "close", "aria-label": "Close the instance's details" },
      "×",
    );
    this.close.addEventListener("click", close);
    this.list = element("dl");
    node.append(this.close, this.title, this.name, this.list);
  }

  hide() {
    this.node.hidden = true;
  }

  show(instance, state, box, isPinned) {
    const tier = state.tiers.find((each) => each.index === instance.tier);
    write(this.title, `Instance ${instance.index}`);
    write(this.name, instance.name);
    this.node.style.setProperty("--tone", tierColour(instance.tier, state.tiers.length));
    this.close.hidden = !isPinned;
    this.node.classList.toggle("pinned", isPinned);
    for (const [name, value] of factsOf(instance, tier)) this.fact(name, value);
    this.node.hidden = false;
    this.place(box);
  }

  fact(name, value) {
    if (!this.facts.has(name)) {
      this.facts.set(name, element("dd"));
      this.list.append(element("dt", {}, name), this.facts.get(name));
    }
    write(this.facts.get(name), value);
  }

  get isSheet() {
    return innerWidth < SHEET_BELOW_PX;
  }

  place(box) {
    const { node } = this;
    node.classList.toggle("sheet", this.isSheet);
    if (this.isSheet) {
      set(node, "data-place", "foot");
      node.style.left = node.style.top = "";
      return;
    }
    const { width, height } = node.getBoundingClientRect();
    const left = box.left + box.width / 2 - width / 2;
    const isBelow = box.bottom + MARGIN_PX + height < innerHeight || box.top < height + MARGIN_PX;
    node.style.left = `${Math.round(Math.max(MARGIN_PX, Math.min(innerWidth - width - MARGIN_PX, left)))}px`;
    node.style.top = `${Math.round(isBelow ? box.bottom + MARGIN_PX : box.top - height - MARGIN_PX)}px`;
  }
}

function factsOf(instance, tier) {
  const place = tier ? `${tierName(tier)} tier` : (GROUP_NAMES[instance.group] ?? instance.group);
  return [
    ["In", `${place}, for ${duration(instance.since_s)}`],
    ["Load", percent(instance.load_ratio)],
    ["Iteration", latency(instance.iteration_s)],
    ["Slack", `${latency(instance.slack_s)}${tier ? ` of ${tierName(tier)}` : ""}`],
    ["KV in use", percent(instance.kv_ratio)],
    ["Decodes", count(instance.num_decodes)],
    ["Queued", `${count(instance.num_queued)} (${count(instance.queued_tokens)} tokens)`],
    ["Speed", speed(instance.slowness_ratio)],
  ];
}

function speed(slowness_ratio) {
  if (slowness_ratio === null || slowness_ratio === undefined) return "not known yet";
  const part = Math.round((slowness_ratio - 1) * 100);
  return part === 0 ? "as its profile says" : `${Math.abs(part)}% ${part > 0 ? "slower" : "faster"} than its profile`;
}
