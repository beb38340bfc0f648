// The story of one request: what it was promised, what was decided, and when its tokens came against when they were due.

import { bringIntoView, byId, element } from "./markup.js";
import { BETWEEN, count, latency, plural, tierColour, tierName } from "./quantities.js";
import { firstTokenFigure, latenessFigure } from "./timeline.js";

const AGAIN_S = 2; // how often an unfinished story is read again
const OUTCOMES = {
  attained: { text: "attained its SLO", standing: "met" },
  missed: { text: "missed its SLO", standing: "missed" },
  refused: { text: "was refused", standing: "missed" },
  failed: { text: "failed", standing: "missed" },
  served: { text: "served, best effort", standing: "met" },
  rejected: { text: "found wrong by its engine", standing: "unknown" },
  cancelled: { text: "cancelled by its client", standing: "unknown" },
};
const STEP_NAMES = {
  arrived: "Arrived",
  refused_by: "Refused by",
  pended: "Pended",
  placed: "Placed",
  transferred: "Sent on",
  first_token: "First token",
  promoted: "Promoted",
  relegated: "Relegated",
  attained: "Ended in time",
  missed: "Ended",
  served: "Ended",
  refused: "Refused",
  failed: "Failed",
  rejected: "Rejected",
  cancelled: "Cancelled",
};

export class Story {
  constructor(selection) {
    this.selection = selection;
    this.state = null;
    this.story = null;
    this.id = null;
    this.readAt_ms = 0;
    selection.onChange((isAsked) => this.follow(isAsked));
  }

  draw(state) {
    const isFirst = this.state === null;
    this.state = state;
    if (isFirst) this.follow(false);
    const isDue = performance.now() - this.readAt_ms > AGAIN_S * 1000;
    if (this.story && this.story.id === this.id && !hasEnded(this.story) && isDue) this.read(false);
  }

  follow(isAsked) {
    const { request } = this.selection;
    byId("search-id").value = request ?? byId("search-id").value;
    if (request === this.id) return;
    this.id = request;
    this.story = null;
    byId("story").hidden = request === null;
    if (request !== null) this.read(isAsked);
  }

  async read(isAsked) {
    const { id } = this;
    this.readAt_ms = performance.now();
    const answer = await readStory(id, this.selection.model);
    if (id !== this.id) return; // someone chose another while this one was under way
    this.story = answer.story ?? this.story;
    if (answer.story) this.tell(answer.story);
    else if (!this.story) this.apologise(id, answer.problem);
    if (isAsked) reveal(byId("story"));
  }

  tell(story) {
    const numTiers = this.state?.tiers.length ?? 1;
    const model = (this.state?.models.length ?? 1) > 1 ? story.model : null;
    const tier = this.state?.tiers.find((each) => each.index === story.tier);
    const node = byId("story");
    node.style.setProperty("--tone", tierColour(story.tier, numTiers));
    const now_s = hasEnded(story) ? null : (this.state?.now_unix_s ?? null);
    this.fill(
      story.id,
      outcomeOf(story),
      element("p", { class: "facts" }, factsOf(story, tier, model)),
      story.slo && firstTokenFigure(story, now_s),
      latenessFigure(story),
      stepsOf(story, (index) => this.chooseInstance(index, story.model)),
    );
  }

  // The story may be of another model than the one that is shown; its instances are that one's.
  chooseInstance(index, model) {
    const isShown = model === undefined || model === this.state?.model;
    this.selection.chooseInstance(index, isShown ? this.selection.model : model);
  }

  apologise(id, problem) {
    this.fill(id, { text: "No story", standing: "unknown" }, element("p", {}, problem));
  }

  fill(id, outcome, ...children) {
    const node = byId("story");
    const close = element("button", { type: "button", class: "close", "aria-label": "Close the story" }, "×");
    close.addEventListener("click", () => this.selection.chooseRequest(null));
    const mark = element("b", { class: "outcome" }, outcome.text);
    mark.dataset.standing = outcome.standing;
    const hadFocus = node.contains(document.activeElement) && document.activeElement !== node;
    node.setAttribute("aria-label", `Story of request ${id}`);
    node.replaceChildren(element("header", {}, element("h3", {}, id), mark, close), ...children.filter(Boolean));
    if (hadFocus) close.focus({ preventScroll: true });
  }
}

// Clients choose ids, so two models may have a request of one name: the one that is shown comes first.
async function readStory(id, model) {
  const query = model === null ? "" : `?${new URLSearchParams({ model })}`;
  try {
    const response = await fetch(`requests/${encodeURIComponent(id)}${query}`, {
      cache: "no-store",
      signal: AbortSignal.timeout(5000),
    });
    if (response.ok) return { story: await response.json() };
    if (response.status === 404)
      return {
        problem:
          "The gateway remembers no request with this id. It remembers the most recent ones only; copy the id from the response header x-request-id.",
      };
    return { problem: `The gateway answers ${response.status}.` };
  } catch {
    return { problem: "The gateway did not answer. Choose the request again when it can be reached." };
  }
}

function reveal(node) {
  node.focus({ preventScroll: true });
  bringIntoView(node);
}

const hasEnded = (story) => story.outcome !== null;

function outcomeOf({ outcome }) {
  if (outcome === null) return { text: "under way", standing: "unknown" };
  return OUTCOMES[outcome] ?? { text: outcome, standing: "unknown" };
}

function factsOf(story, tier, model) {
  const tokens = `${plural(story.input_tokens, "token")} in, ${count(story.output_tokens)} out`;
  const answer = story.is_streamed ? null : "not streamed";
  return [promiseOf(story), tokens, answer, tier ? `${tierName(tier)} tier` : null, model].filter(Boolean).join(BETWEEN);
}

function promiseOf({ slo }) {
  if (slo === null) return "best effort: no SLO";
  return `first token within ${latency(slo.ttft_ms / 1000)}, then one every ${latency(slo.tpot_ms / 1000)}`;
}

function stepsOf(story, chooseInstance) {
  const start_s = story.steps[0]?.unix_s ?? 0;
  return element(
    "ol",
    { class: "steps" },
    ...merged(story.steps).map((step) => stepLine(step, step.unix_s - start_s, chooseInstance)),
  );
}

// A large tier refuses with many voices: they are one step, with their reasons counted.
function merged(steps) {
  const lines = [];
  for (const step of steps) {
    const last = lines.at(-1);
    if (step.kind === "refused_by" && last?.refusals) last.refusals.push(step);
    else lines.push(step.kind === "refused_by" ? { ...step, refusals: [step] } : step);
  }
  return lines.map((line) =>
    line.refusals?.length > 1 ? { ...line, instance: null, reason: null, text: refusalWords(line.refusals) } : line,
  );
}

function refusalWords(refusals) {
  const reasons = new Map();
  for (const { reason } of refusals) reasons.set(reason ?? "unknown", (reasons.get(reason ?? "unknown") ?? 0) + 1);
  const parts = [...reasons].sort((a, b) => b[1] - a[1]).map(([reason, times]) => `${reason} ${times}×`);
  return `${plural(refusals.length, "instance")}: ${parts.join(", ")}`;
}

function stepLine(step, after_s, chooseInstance) {
  const details = [
    step.rung ? `rung: ${step.rung}` : null,
    step.reason ? `reason: ${step.reason}` : null,
    step.predicted_ttft_s ? `predicted TTFT ${latency(step.predicted_ttft_s)}` : null,
    step.predicted_tpot_s ? `TPOT ${latency(step.predicted_tpot_s)}` : null,
  ].filter(Boolean);
  return element(
    "li",
    {},
    element("time", {}, `+${latency(after_s)}`),
    element(
      "div",
      {},
      element("b", {}, STEP_NAMES[step.kind] ?? step.kind),
      instanceLink(step, chooseInstance),
      " ",
      step.text ?? "",
      details.length ? element("p", { class: "details" }, details.join(BETWEEN)) : null,
    ),
  );
}

function instanceLink(step, chooseInstance) {
  if (step.instance === null || step.instance === undefined) return null;
  const button = element("button", { type: "button", class: "reference" }, `instance ${step.instance}`);
  button.addEventListener("click", () => chooseInstance(step.instance));
  return element("span", {}, " ", button);
}
