// What the policy did and what happened to it, newest first, with filters by kind and tier.

import { byId, element } from "./markup.js";
import { clock, count, tierColour, tierName } from "./quantities.js";
import { isBeingRead } from "./reading.js";

const FILTERS = {
  scaling: { name: "Scaling", kinds: ["scale_up", "scale_down", "take_over"] },
  promotion: { name: "Promotions", kinds: ["promotion"] },
  relegation: { name: "Relegations", kinds: ["relegation"] },
  refusal: { name: "Refusals", kinds: ["refusal"] },
  health: { name: "Instances", kinds: ["unhealthy", "recovered", "joined", "draining", "left"] },
};
const MARKS = {
  scale_up: "+",
  scale_down: "−",
  take_over: "⇄",
  promotion: "↑",
  relegation: "↓",
  refusal: "×",
  unhealthy: "!",
  recovered: "✓",
  joined: "→",
  draining: "…",
  left: "←",
};
const KIND_NAMES = {
  scale_up: "Scale up",
  scale_down: "Scale down",
  take_over: "Take-over",
  promotion: "Promotion",
  relegation: "Relegation",
  refusal: "Refusal",
  unhealthy: "Unhealthy",
  recovered: "Recovered",
  joined: "Joined",
  draining: "Draining",
  left: "Left",
};

const filterOf = (kind) => Object.keys(FILTERS).find((key) => FILTERS[key].kinds.includes(kind)) ?? "scaling";

export class Feed {
  constructor(selection) {
    this.selection = selection;
    this.off = new Set();
    this.tier = "";
    this.state = null;
    this.newest_s = null;
    this.buttons = new Map(Object.keys(FILTERS).map((key) => [key, this.filterButton(key)]));
    this.select = element("select", { "aria-label": "Tier" });
    this.select.addEventListener("change", () => {
      this.tier = this.select.value;
      this.draw(this.state, true);
    });
    byId("filters").append(...this.buttons.values(), this.select);
  }

  filterButton(key) {
    const button = element(
      "button",
      { type: "button", class: "filter", "aria-pressed": "true" },
      FILTERS[key].name,
      " ",
      element("span", { class: "count" }),
    );
    button.addEventListener("click", () => {
      if (!this.off.delete(key)) this.off.add(key);
      button.setAttribute("aria-pressed", String(!this.off.has(key)));
      this.draw(this.state, true);
    });
    return button;
  }

  draw(state, isAsked = false) {
    if (!state) return;
    const isAnother = this.state?.model !== state.model;
    if (isAnother) this.key = this.newest_s = null; // none of another model's events is news
    this.state = state;
    this.drawFilters(state);
    if (!isAsked && !isAnother && isBeingRead(byId("feed"), byId("events-held"))) return;
    const shown = state.events.filter(
      (event) => !this.off.has(filterOf(event.kind)) && (this.tier === "" || String(event.tier) === this.tier),
    );
    const key = shown.map((event) => `${event.unix_s}${event.kind}${event.instance}${event.request}`).join("|");
    if (key === this.key) return;
    this.key = key;
    byId("feed").replaceChildren(...shown.map((event) => this.line(event, state)));
    this.newest_s = state.events[0]?.unix_s ?? null;
    this.drawEmpty(state, shown);
  }

  drawFilters(state) {
    for (const [key, button] of this.buttons) {
      button.lastChild.textContent = count(state.events.filter((event) => filterOf(event.kind) === key).length);
    }
    const names = state.tiers.map(tierName).join();
    if (names === this.tierNames) return;
    this.tierNames = names;
    const options = state.tiers.map((tier) => element("option", { value: tier.index }, `${tierName(tier)} tier`));
    this.select.replaceChildren(element("option", { value: "" }, "All tiers"), ...options);
    this.select.value = this.tier;
  }

  drawEmpty(state, shown) {
    const node = byId("events-empty");
    node.hidden = shown.length > 0;
    byId("feed").hidden = shown.length === 0;
    node.textContent =
      state.events.length === 0
        ? "Nothing happened yet. Scaling, promotions, refusals and the health of instances will be told here."
        : "No event passes these filters.";
  }

  line(event, state) {
    const tier = state.tiers.find((each) => each.index === event.tier);
    const isNew = this.newest_s !== null && event.unix_s > this.newest_s;
    const mark = element(
      "span",
      { class: "mark", title: KIND_NAMES[event.kind] ?? event.kind, "aria-hidden": "true" },
      MARKS[event.kind] ?? "·",
    );
    const node = element(
      "li",
      { class: `${filterOf(event.kind)}${isNew ? " new" : ""}` },
      element("time", { datetime: new Date(event.unix_s * 1000).toISOString() }, clock(event.unix_s)),
      mark,
      element("p", {}, element("b", {}, KIND_NAMES[event.kind] ?? event.kind), " ", event.text, ...this.links(event)),
    );
    node.style.setProperty("--tone", tierColour(tier?.index, state.tiers.length));
    return node;
  }

  links(event) {
    const links = [];
    if (event.request)
      links.push(
        " ",
        this.link("story", `Story of request ${event.request}`, () => this.selection.chooseRequest(event.request)),
      );
    if (event.instance !== null && event.instance !== undefined) {
      links.push(
        " ",
        this.link(`instance ${event.instance}`, `Details of instance ${event.instance}`, () =>
          this.selection.chooseInstance(event.instance),
        ),
      );
    }
    return links;
  }

  link(text, label, act) {
    const button = element("button", { type: "button", class: "reference", "aria-label": label }, text);
    button.addEventListener("click", act);
    return button;
  }
}
