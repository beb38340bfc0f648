// Which model is shown: a choice where the gateway serves several, and a word where a link names one that it lacks.

import { byId, element, set, write } from "./markup.js";

export class Models {
  constructor(selection) {
    this.select = byId("model");
    this.names = "";
    this.select.addEventListener("change", () => selection.chooseModel(this.select.value));
    selection.onChange(() => selection.model !== null && this.miss(null));
  }

  draw({ model, models }) {
    byId("model-choice").hidden = models.length < 2;
    this.offer(models.map(({ name }) => name));
    if (this.select.value !== model) this.select.value = model;
    set(this.select, "title", model); // a long name is cut
    set(byId("state-link"), "href", models.length < 2 ? "state" : `state?${new URLSearchParams({ model })}`);
  }

  // Anew only when they change: a list that someone has opened would close.
  offer(names) {
    const key = JSON.stringify(names);
    if (key === this.names) return;
    this.names = key;
    this.select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  }

  miss(name) {
    byId("astray").hidden = name === null;
    write(byId("astray"), name === null ? "" : `This gateway has no model ${name}; its first one is shown.`);
  }
}
