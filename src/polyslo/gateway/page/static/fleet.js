// All rows of instances. Every lane has the same bar width, so that the length of a row is its number of instances.

import { bringIntoView, byId, element } from "./markup.js";
import { Card } from "./card.js";
import { THINNEST_PX, WIDEST_PX, isSlow } from "./lane.js";
import { plural } from "./quantities.js";
import { GROUPS, GroupRow, TierRow, describeGroup } from "./row.js";

export class Fleet {
  constructor(selection) {
    this.selection = selection;
    this.rows = new Map();
    this.state = null;
    this.looked = null;
    this.card = new Card(byId("card"), () => selection.chooseInstance(null));
    this.actions = { choose: (index) => this.toggle(index), point: (index) => this.look(index) };
    this.chosen = selection.instance;
    this.isSought = false; // an instance was chosen from afar, perhaps of a model that is not here yet
    selection.onChange(() => this.follow());
    new ResizeObserver(() => this.state && this.draw(this.state)).observe(byId("rows"));
    addEventListener("scroll", () => this.drawCard(), { passive: true });
    addEventListener(
      "keydown",
      (event) => event.key === "Escape" && this.selection.instance !== null && selection.chooseInstance(null),
    );
  }

  draw(state) {
    if (this.state && this.state.model !== state.model) this.forget();
    this.state = state;
    const shown = this.shownRows(state);
    this.keep(shown);
    byId("key").hidden = state.instances.length === 0;
    byId("key-slow").hidden = !state.instances.some(isSlow);
    this.drawEmpty(state);
    const width_px = laneWidth(this.rows);
    const longest = Math.max(1, ...shown.map(({ instances }) => instances.length));
    const pitch_px = Math.max(THINNEST_PX, Math.min(WIDEST_PX, Math.floor(width_px / longest)));
    for (const { key, tier, instances, note } of shown) {
      const row = this.rows.get(key);
      if (tier) row.draw(tier, instances, state.tiers.length, pitch_px, width_px, this.selection.instance);
      else row.draw(instances, note, pitch_px, width_px, this.selection.instance);
    }
    this.drawCard();
  }

  // Another model's instances are others, though their numbers are the same: no bar becomes one of theirs.
  forget() {
    for (const row of this.rows.values()) row.node.remove();
    this.rows.clear();
    this.looked = null;
    byId("fleet-empty").replaceChildren();
  }

  shownRows(state) {
    const groups = grouped(state.instances);
    const tiers = state.tiers.map((tier) => ({
      key: `tier-${tier.index}`,
      tier,
      instances: groups.get(`tier-${tier.index}`) ?? [],
    }));
    const known = new Set([...Object.keys(GROUPS), ...tiers.map(({ key }) => key)]);
    const unknown = [...groups.keys()].filter((group) => !known.has(group)); // a newer gateway's; better shown than lost
    const others = [...Object.keys(GROUPS), ...unknown]
      .map((group) => ({ key: group, instances: groups.get(group) ?? [] }))
      .map((row) => ({ ...row, note: noteOf(row, state.best_effort) }))
      .filter(({ key, instances }) => instances.length > 0 || key === "idle");
    return state.instances.length > 0 ? [...tiers, ...others] : [];
  }

  // Rows keep their elements while they exist: a focused bar stays focused.
  keep(shown) {
    const keys = new Set(shown.map(({ key }) => key));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.node.remove();
      this.rows.delete(key);
    }
    shown.forEach(({ key, tier }, place) => {
      if (!this.rows.has(key)) this.rows.set(key, tier ? new TierRow(this.actions) : new GroupRow(key, this.actions));
      const { node } = this.rows.get(key);
      const at = byId("rows").children[place];
      if (at !== node) byId("rows").insertBefore(node, at ?? null);
    });
  }

  drawEmpty(state) {
    const node = byId("fleet-empty");
    node.hidden = state.instances.length > 0;
    if (node.hidden || node.childElementCount > 0) return;
    const isAlone = state.models.length < 2;
    const joining = JSON.stringify({ url: "http://10.0.0.1:8000", ...(isAlone ? {} : { model: state.model }) });
    const start = isAlone
      ? [
          "The gateway knows no instance, so it refuses every request with 503. Start it with one or more engines:",
          "polyslo serve --worker-urls http://10.0.0.1:8000 http://10.0.0.2:8000",
        ]
      : [
          `The gateway knows no instance of ${state.model}, so it refuses its requests with 503. Give it some in its configuration, below the model's name:`,
          '[[models.endpoints]]\nurl = "http://10.0.0.1:8000"',
        ];
    node.append(
      element("p", {}, start[0]),
      element("pre", {}, start[1]),
      element("p", {}, "or give it one while it runs, with the key of server.admin_key_hash:"),
      element(
        "pre",
        {},
        `curl -X POST ${location.origin}/workers -H 'authorization: Bearer ADMIN_KEY' -d '${joining}'`,
      ),
    );
  }

  follow() {
    this.isSought = this.selection.instance !== null && this.selection.instance !== this.chosen;
    this.chosen = this.selection.instance;
    if (this.state) this.draw(this.state);
  }

  toggle(index) {
    this.selection.chooseInstance(this.selection.instance === index ? null : index);
  }

  look(index) {
    this.looked = index;
    this.drawCard();
  }

  // What is pointed at comes first; what was chosen stays for when nothing is.
  drawCard() {
    if (!this.state) return;
    const index = this.looked ?? this.selection.instance;
    const instance = this.state.instances.find((each) => each.index === index);
    const bar = instance && [...this.rows.values()].map((row) => row.lane.bar(index)).find(Boolean);
    if (bar) this.card.show(instance, this.state, bar.getBoundingClientRect(), index === this.selection.instance);
    else this.card.hide();
    if (bar && index === this.chosen) this.reveal(bar);
  }

  // What was chosen in a story or an event may lie far above it; a sheet shows itself.
  reveal(bar) {
    const isHere = this.state.model === (this.selection.model ?? this.state.models[0].name);
    if (!this.isSought || !isHere) return;
    this.isSought = false;
    const { top, bottom } = bar.getBoundingClientRect();
    if (!this.card.isSheet && (bottom < 0 || top > innerHeight)) bringIntoView(bar, "center");
  }
}

function grouped(instances) {
  const groups = new Map();
  for (const instance of instances) {
    const key = instance.group === "tier" ? `tier-${instance.tier}` : instance.group;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(instance);
  }
  for (const group of groups.values()) group.sort((a, b) => a.rank - b.rank || a.index - b.index);
  return groups;
}

// Best effort is in no tier, so the pool tells of it, also of what waits for the pool or is hosted by a tier.
function noteOf({ key, instances }, bestEffort) {
  const { num_running, num_waiting } = key === "idle" && bestEffort ? bestEffort : { num_running: 0, num_waiting: 0 };
  const isEmpty = instances.length === 0;
  const owned = `${plural(instances.length, "instance")}, ${describeGroup(key).note}`;
  const note = isEmpty ? "Empty: every instance is in use" : owned;
  const work = num_running + num_waiting > 0 ? `; best effort: ${num_running} running, ${num_waiting} waiting` : "";
  return `${note}${work}${isEmpty ? "." : ""}`;
}

function laneWidth(rows) {
  for (const row of rows.values()) {
    const cell = row.lane.node.parentElement;
    if (row.node.classList.contains("tier") && cell.clientWidth > 0) return cell.clientWidth;
  }
  return byId("rows").clientWidth;
}
