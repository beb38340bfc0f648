// A request's time against its deadlines, twice: the way to the first token, then every token's lateness.
//
// Labels lie in rows of their own above and below the bar, so that no two of them can meet.

import { element, shape } from "./markup.js";
import { count, latency } from "./quantities.js";

const ROOM = 1.12; // right of the last mark
const HEIGHT = 100;

export function firstTokenFigure(story, now_s) {
  const start_s = story.steps[0]?.unix_s;
  if (start_s === undefined || !story.is_streamed) return null; // nobody saw the first token of a whole answer
  const after = (step) => (step ? step.unix_s - start_s : null);
  const first_s = after(story.steps.find((step) => step.kind === "first_token"));
  const placed = story.steps.filter((step) => step.kind === "placed" || step.kind === "promoted");
  const predicted_s = placed.map((step) => step.predicted_ttft_s).find((value) => value > 0) ?? null;
  const end_s = first_s ?? (now_s === null ? after(story.steps.at(-1)) : now_s - start_s);
  const due_s = story.slo.ttft_ms / 1000;
  const full_s = ROOM * Math.max(due_s, end_s, predicted_s ?? 0, 1e-3);
  const bounds = [0, ...placed.map(after).filter((at) => at < end_s), end_s];
  const spans = bounds
    .slice(1)
    .map((until, i) => span(i === 0 ? "waits" : "prefills", bounds[i] / full_s, until / full_s, due_s / full_s));
  return figure(
    "To the first token",
    legend([
      ["waits", "waits"],
      ["prefills", "prefill"],
    ]),
    element(
      "div",
      { class: "times", role: "img", "aria-label": words(first_s, due_s, predicted_s) },
      mark("due", due_s / full_s, `due ${latency(due_s)}`),
      element("div", { class: "bar-track" }, ...spans.flat()),
      first_s === null ? null : mark("came", first_s / full_s, `came ${latency(first_s)}`),
      predicted_s === null ? null : mark("foreseen", predicted_s / full_s, `predicted ${latency(predicted_s)}`),
    ),
  );
}

function figure(title, note, drawing) {
  return element("figure", {}, element("figcaption", {}, element("b", {}, title), " ", note), drawing);
}

function legend(entries) {
  return element(
    "span",
    { class: "key" },
    ...entries.map(([kind, name]) => element("span", {}, element("i", { class: `sample ${kind}` }), name)),
  );
}

function words(first_s, due_s, predicted_s) {
  const came = first_s === null ? "has not come yet" : `came after ${latency(first_s)}`;
  const foreseen = predicted_s === null ? "" : `, predicted after ${latency(predicted_s)}`;
  return `The first token ${came}; it was due after ${latency(due_s)}${foreseen}.`;
}

// What lies past the deadline is drawn apart: it is what was missed.
function span(kind, from, to, due) {
  const parts = [];
  if (from < due) parts.push(piece(kind, from, Math.min(to, due)));
  if (to > due) parts.push(piece(`${kind} late`, Math.max(from, due), to));
  return parts;
}

function piece(kind, from, to) {
  const node = element("i", { class: `span ${kind}` });
  node.style.left = `${(from * 100).toFixed(2)}%`;
  node.style.width = `${((to - from) * 100).toFixed(2)}%`;
  return node;
}

function mark(kind, at, label) {
  const node = element(
    "div",
    { class: `mark ${kind}${at > 0.5 ? " leftward" : ""}` },
    element("i"),
    element("span", {}, label),
  );
  node.style.left = `${(at * 100).toFixed(2)}%`;
  return element("div", { class: "mark-row" }, node);
}

export function latenessFigure(story) {
  const values = story.tokens ?? [];
  if (values.length < 2) return null;
  const worst = Math.max(...values);
  const best = Math.min(...values);
  const room = 0.08 * Math.max(worst, 0, 1e-3) + 0.08 * Math.max(-best, 1e-3);
  const top = Math.max(0, worst) + room;
  const height = top - Math.min(0, best) || 1;
  const y = (value) => ((top - value) / height) * HEIGHT;
  const svg = shape(
    "svg",
    { viewBox: `0 0 ${values.length} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    shape("path", {
      class: "early",
      d: columns(
        values.map((value) => Math.min(value, 0)),
        y,
      ),
    }),
    shape("path", {
      class: "late",
      d: columns(
        values.map((value) => Math.max(value, 0)),
        y,
      ),
    }),
    shape("path", { class: "due", d: `M0 ${y(0)}H${values.length}` }),
  );
  const note = `closest ${lateness(worst)}, earliest ${lateness(best)}`;
  return figure(
    "Tokens against their deadlines",
    element("span", { class: "note" }, note),
    element(
      "div",
      { class: "lateness", role: "img", "aria-label": `Tokens against their deadlines: ${note}.` },
      svg,
      element(
        "p",
        { class: "axis" },
        element("span", {}, "token 1"),
        element("span", { class: "due-key" }, "dashed: due"),
        element("span", {}, count(story.output_tokens)),
      ),
    ),
  );
}

function columns(values, y) {
  return values
    .map((value, i) =>
      value === 0 ? "" : `M${i} ${y(0).toFixed(2)}V${y(value).toFixed(2)}H${i + 1}V${y(0).toFixed(2)}Z`,
    )
    .join("");
}

function lateness(value) {
  if (Math.abs(value) < 5e-5) return "on time";
  return `${latency(Math.abs(value))} ${value > 0 ? "late" : "early"}`;
}
