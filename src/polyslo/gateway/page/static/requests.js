// Recent requests, and the search for one by its id; either opens its story.

import { byId, element } from "./markup.js";
import { count, duration, latency, tierColour, tierName } from "./quantities.js";
import { isBeingRead } from "./reading.js";

export class Requests {
  constructor(selection) {
    this.selection = selection;
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      const id = byId("search-id").value.trim();
      if (id) selection.chooseRequest(id);
    });
    selection.onChange(() => this.state && this.draw(this.state, true));
  }

  draw(state, isAsked = false) {
    const isAnother = this.state?.model !== state.model;
    if (isAnother) byId("requests-empty").replaceChildren();
    this.state = state;
    this.drawEmpty(state);
    byId("recent").hidden = state.requests.length === 0;
    if (!isAsked && !isAnother && isBeingRead(byId("recent"), byId("requests-held"))) return;
    const head = element(
      "tr",
      {},
      ...["Request", "Tier", "Stage", "Inst.", "Age", "Tokens", "Slack"].map((name) =>
        element("th", { scope: "col" }, name),
      ),
    );
    const rows = state.requests.map((request) => this.row(request, state));
    byId("recent").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  }

  row(request, state) {
    const tier = state.tiers.find((each) => each.index === request.tier);
    const button = element(
      "button",
      { type: "button", class: "reference", title: request.id, "aria-label": `Story of request ${request.id}` },
      request.id,
    );
    button.addEventListener("click", () => this.selection.chooseRequest(request.id));
    const slack = request.slack_s ?? null;
    const node = element(
      "tr",
      { "aria-current": request.id === this.selection.request ? "true" : null },
      element("th", { scope: "row" }, button),
      element("td", {}, element("i", { class: "swatch" }), tier ? tierName(tier) : "best effort"),
      element("td", { class: "stage" }, request.stage),
      element("td", {}, request.instance === null ? "–" : String(request.instance)),
      element("td", {}, duration(request.age_s)),
      element("td", {}, count(request.emitted_tokens)),
      element("td", { class: slack !== null && slack < 0 ? "behind" : null }, latency(slack)),
    );
    node.style.setProperty("--tone", tierColour(request.tier, state.tiers.length));
    return node;
  }

  drawEmpty(state) {
    const node = byId("requests-empty");
    node.hidden = state.requests.length > 0 || state.instances.length === 0;
    if (node.hidden || node.childElementCount > 0) return;
    const { model } = state;
    const { scheme, port } = state.requests_at ?? { scheme: "http", port: 30000 }; // not this page's port
    const body = JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "Hello" }] });
    node.append(
      element("p", {}, "No requests yet. Send one; its headers say how soon its tokens are due:"),
      element(
        "pre",
        {},
        `curl ${scheme}://${location.hostname}:${port}/v1/chat/completions \\\n  -H 'content-type: application/json' \\\n  -H 'x-slo-ttft-ms: 500' -H 'x-slo-tpot-ms: 50' \\\n  -d '${body}'`,
      ),
    );
  }
}
