// All rows of instances. Every lane has the same bar width, so that the length of a row is its number of instances.

import { byId, element } from "./markup.js";
import { Card } from "./card.js";
import { THINNEST_PX, WIDEST_PX, isSlow } from "./lane.js";
import { GROUPS, GroupRow, TierRow, describeGroup } from "./row.js";

export class Fleet {
  constructor(selection) {
    this.selection = selection;
    this.rows = new Map();
    this.state = null;
    this.looked = null;
    this.card = new Card(byId("card"), () => selection.chooseInstance(null));
    this.actions = { choose: (index) => this.toggle(index), point: (index) => this.look(index) };
    selection.onChange(() => this.state && this.draw(this.state));
    new ResizeObserver(() => this.state && this.draw(this.state)).observe(byId("rows"));
    addEventListener("scroll", () => this.drawCard(), { passive: true });
    addEventListener(
      "keydown",
      (event) => event.key === "Escape" && this.selection.instance !== null && selection.chooseInstance(null),
    );
  }

  draw(state) {
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
      .map((group) => ({ key: group, instances: groups.get(group) ?? [], note: noteOf(group, state.pool) }))
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
    node.append(
      element(
        "p",
        {},
        "The gateway knows no instance, so it refuses every request with 503. Start it with one or more engines:",
      ),
      element("pre", {}, "polyslo serve --worker-urls http://10.0.0.1:8000 http://10.0.0.2:8000"),
      element("p", {}, "or give it one while it runs, with the key of server.admin_key_hash:"),
      element(
        "pre",
        {},
        `curl -X POST ${location.origin}/workers -H 'authorization: Bearer ADMIN_KEY' -d '{"url": "http://10.0.0.1:8000"}'`,
      ),
    );
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

function noteOf(group, pool) {
  if (group !== "idle" || !(pool.num_best_effort > 0)) return describeGroup(group).note;
  return `${GROUPS.idle.note}, ${pool.num_best_effort} on best-effort work`;
}

function laneWidth(rows) {
  for (const row of rows.values()) {
    const cell = row.lane.node.parentElement;
    if (row.node.classList.contains("tier") && cell.clientWidth > 0) return cell.clientWidth;
  }
  return byId("rows").clientWidth;
}
