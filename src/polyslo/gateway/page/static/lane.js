// One line of instances, most loaded first, a bar each; when bars would get too thin to see, the line wraps.
//
// A bar is a box as high as the TPOT: what fills it is load, what stays light is slack, what rises above it is late.
// A lane is a listbox: one stop of the Tab key, arrows inside. Bars are too thin to hit, so the lane finds the nearest.

import { element, set, write } from "./markup.js";
import { latency, percent } from "./quantities.js";

export const THINNEST_PX = 3; // a bar and its gap
export const WIDEST_PX = 56;
const LABELLED_PX = 24; // from here on an instance's number fits under its bar
const HIGHEST_LOAD = 1.24;
const TRACK_PX = { single: 60, wrapped: 32, flat: 18 };
const WORTH_MARKING_SLOWNESS = 1.15;

export function isSlow(instance) {
  return (instance.slowness_ratio ?? 1) >= WORTH_MARKING_SLOWNESS;
}

export class Lane {
  // choose(index) when an instance is picked, point(index or null) while one is looked at.
  constructor(label, isFlat, { choose, point }) {
    this.isFlat = isFlat; // instances without load: idle, unhealthy
    this.choose = choose;
    this.point = point;
    this.bars = new Map();
    this.instances = [];
    this.active = null;
    this.limits = element("div", { class: "limits", "aria-hidden": "true" });
    this.node = element(
      "div",
      { class: "lane", role: "listbox", tabindex: "0", "aria-orientation": "horizontal" },
      this.limits,
    );
    this.label(label);
    this.listen();
  }

  label(text) {
    set(this.node, "aria-label", text);
  }

  listen() {
    const { node } = this;
    node.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.look(this.nearest(event)));
    node.addEventListener("pointerleave", () => this.look(null));
    node.addEventListener("click", (event) => this.pick(this.nearest(event)));
    node.addEventListener(
      "focus",
      () => node.matches(":focus-visible") && this.look(this.active ?? this.instances[0]?.index ?? null),
    );
    node.addEventListener("blur", () => this.look(null));
    node.addEventListener("keydown", (event) => this.press(event));
  }

  draw(instances, pitch_px, width_px, chosen) {
    this.instances = instances;
    this.place(pitch_px, width_px);
    const kept = new Set(instances.map((instance) => instance.index));
    for (const [index, bar] of this.bars) {
      if (kept.has(index)) continue;
      bar.remove();
      this.bars.delete(index);
      if (index === this.active) this.leave();
    }
    instances.forEach((instance, place) => this.drawBar(instance, place, chosen));
  }

  place(pitch_px, width_px) {
    this.pitch_px = pitch_px;
    this.perLine = Math.max(1, Math.floor((width_px + 1) / pitch_px));
    const numLines = Math.max(1, Math.ceil(this.instances.length / this.perLine));
    const track = this.isFlat ? TRACK_PX.flat : numLines > 1 ? TRACK_PX.wrapped : TRACK_PX.single;
    const above = this.isFlat ? 0 : Math.ceil(track * (HIGHEST_LOAD - 1));
    const below = pitch_px >= LABELLED_PX ? 18 : 5;
    this.line_px = track + above + below;
    const style = this.node.style;
    style.setProperty("--track", `${track}px`);
    style.setProperty("--above", `${above}px`);
    style.setProperty("--bar", `${pitch_px - gap(pitch_px)}px`);
    style.height = `${numLines * this.line_px}px`;
    this.node.classList.toggle("numbered", pitch_px >= LABELLED_PX);
    this.node.classList.toggle("thin", pitch_px < 8);
    this.node.classList.toggle("still", this.instances.length > 200); // moving many bars at once is no help
    this.drawLimits(numLines, above);
  }

  drawLimits(numLines, above) {
    while (this.limits.childElementCount > numLines) this.limits.lastChild.remove();
    while (this.limits.childElementCount < numLines) this.limits.append(element("i"));
    [...this.limits.children].forEach((limit, line) => (limit.style.top = `${line * this.line_px + above}px`));
  }

  drawBar(instance, place, chosen) {
    let bar = this.bars.get(instance.index);
    if (!bar) {
      bar = element("div", { class: "bar", role: "option", id: `instance-${instance.index}` });
      this.bars.set(instance.index, bar);
      this.node.append(bar);
    }
    const x = (place % this.perLine) * this.pitch_px;
    const y = Math.floor(place / this.perLine) * this.line_px;
    const load = this.isFlat ? 0 : (instance.load_ratio ?? 0);
    bar.style.setProperty("--x", `${x}px`);
    bar.style.setProperty("--y", `${y}px`);
    bar.style.setProperty("--load", Math.max(0, Math.min(HIGHEST_LOAD, load)).toFixed(3));
    bar.style.setProperty("--kv", Math.max(0, Math.min(1, instance.kv_ratio ?? 0)).toFixed(3));
    set(bar, "class", barClass(instance, load));
    set(bar, "aria-label", spoken(instance, this.isFlat));
    set(bar, "aria-selected", String(instance.index === chosen));
    write(bar, String(instance.index));
  }

  bar(index) {
    return this.bars.get(index) ?? null;
  }

  nearest(event) {
    if (this.instances.length === 0) return null;
    const box = this.node.getBoundingClientRect();
    const column = Math.min(this.perLine - 1, Math.max(0, Math.floor((event.clientX - box.left) / this.pitch_px)));
    const line = Math.max(0, Math.floor((event.clientY - box.top) / this.line_px));
    return this.instances[line * this.perLine + column]?.index ?? null;
  }

  look(index) {
    if (index !== null) this.active = index;
    if (index === null) this.node.removeAttribute("aria-activedescendant");
    else set(this.node, "aria-activedescendant", `instance-${index}`);
    for (const [each, bar] of this.bars) bar.toggleAttribute("data-active", each === index);
    this.point(index);
  }

  // The active bar is gone; where it went, another lane shows it.
  leave() {
    this.active = null;
    this.node.removeAttribute("aria-activedescendant");
  }

  pick(index) {
    if (index === null) return;
    this.active = index;
    this.choose(index);
  }

  press(event) {
    const at = Math.max(
      0,
      this.instances.findIndex((instance) => instance.index === this.active),
    );
    const last = this.instances.length - 1;
    const steps = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: at + this.perLine,
      ArrowUp: at - this.perLine,
      Home: 0,
      End: last,
    };
    if (event.key === "Enter" || event.key === " ") this.pick(this.instances[at]?.index ?? null);
    else if (event.key in steps && last >= 0)
      this.look(this.instances[Math.min(last, Math.max(0, steps[event.key]))].index);
    else return;
    event.preventDefault();
  }
}

function gap(pitch_px) {
  return pitch_px >= 20 ? 4 : pitch_px >= 10 ? 3 : pitch_px >= 6 ? 2 : 1;
}

function barClass(instance, load) {
  return `bar${load > 1 ? " late" : ""}${isSlow(instance) ? " slow" : ""}`;
}

function spoken(instance, isFlat) {
  const name = `Instance ${instance.index}`;
  if (isFlat) return name;
  const slowness = isSlow(instance) ? ", slower than its profile" : "";
  return `${name}, load ${percent(instance.load_ratio)}, slack ${latency(instance.slack_s)}, KV ${percent(instance.kv_ratio)}${slowness}`;
}
