// The small charts of a tier's row: steps over the last five minutes, one every five seconds.
//
// Attainment is drawn over its misses on a logarithmic scale: 0.90 and 0.99 lie equally far apart, so that the
// difference between 0.98 and 0.99 shows. A drawing is stretched to its box; strokes keep their width.

import { element, set, shape } from "./markup.js";
import { TARGETS } from "./quantities.js";

const HEIGHT = 30;
const FINEST_MISS = 1e-3; // whatever misses less is drawn at the top

const missHeight = (attainment) => HEIGHT * (-Math.log10(Math.max(FINEST_MISS, 1 - attainment)) / 3);

export function attainmentChart() {
  const area = shape("path", { class: "area" });
  const line = shape("path", { class: "line" });
  const missed = shape("path", { class: "line missed" });
  const targets = TARGETS.map((target) => targetLine(target));
  const labels = TARGETS.map((target) =>
    element("span", { class: "target", "data-target": target }, target.toFixed(2)),
  );
  const svg = drawing(...targets, area, line, missed);
  const node = element("div", { class: "chart" }, svg, ...labels);
  return {
    node,
    draw(values) {
      fit(svg, values.length);
      set(area, "d", areaPath(values, missHeight));
      set(line, "d", stepPath(values, missHeight));
      set(
        missed,
        "d",
        stepPath(
          values.map((value) => (value !== null && value < TARGETS[0] ? value : null)),
          missHeight,
        ),
      );
    },
  };
}

// Steps from zero to the largest value, or to `leastTop` so that one request in a queue is not an alarm.
// A level of zero is the base line itself.
export function levelChart(kind, leastTop) {
  const area = shape("path", { class: "area" });
  const line = shape("path", { class: "line" });
  const svg = drawing(area, line);
  return {
    node: element("div", { class: `chart ${kind}` }, svg),
    draw(values) {
      const top = Math.max(leastTop, ...values.map((value) => value ?? 0));
      const height = (value) => (HEIGHT - 1) * (value / top);
      fit(svg, values.length);
      set(area, "d", areaPath(values, height));
      set(line, "d", outlinePath(values, height));
    },
  };
}

function drawing(...children) {
  return shape("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, ...children);
}

function fit(svg, length) {
  set(svg, "viewBox", `0 -1 ${Math.max(1, length)} ${HEIGHT + 2}`);
}

function targetLine(target) {
  const y = (HEIGHT - missHeight(target)).toFixed(2);
  return shape("path", { class: "aim", d: `M0 ${y}H1000` });
}

function stepPath(values, height) {
  let path = "";
  values.forEach((value, i) => {
    if (value === null) return;
    const y = (HEIGHT - height(value)).toFixed(2);
    path += i > 0 && values[i - 1] !== null ? `V${y}H${i + 1}` : `M${i} ${y}H${i + 1}`;
  });
  return path;
}

// Each run of values above zero, from the base line and back to it.
function outlinePath(values, height) {
  const bars = values.map((value, i) => {
    if (!(value > 0)) return "";
    const y = (HEIGHT - height(value)).toFixed(2);
    const start = i === 0 ? `M0 ${y}` : values[i - 1] > 0 ? `V${y}` : `M${i} ${HEIGHT}V${y}`; // cut at the chart's sides
    const end = values[i + 1] > 0 || i === values.length - 1 ? "" : `V${HEIGHT}`;
    return `${start}H${i + 1}${end}`;
  });
  return bars.join("");
}

function areaPath(values, height) {
  return values
    .map((value, i) =>
      value === null || height(value) === 0
        ? ""
        : `M${i} ${HEIGHT}V${(HEIGHT - height(value)).toFixed(2)}H${i + 1}V${HEIGHT}Z`,
    )
    .join("");
}
