// What someone chose to look at, a model, one request and one instance, kept in the address: it can be sent to a colleague.

export class Selection {
  constructor() {
    this.listeners = [];
    this.read();
    addEventListener("hashchange", () => {
      this.read();
      this.tell(true);
    });
  }

  read() {
    const parts = new URLSearchParams(location.hash.slice(1));
    this.model = parts.get("model") || null; // null: the gateway's first
    this.request = parts.get("request");
    const index = parts.get("instance");
    this.instance = index !== null && /^\d+$/.test(index) ? Number(index) : null;
  }

  // listener(isAsked): isAsked when a person just chose, so that moving the page to the choice is welcome.
  onChange(listener) {
    this.listeners.push(listener);
  }

  // Another model has other instances, and other requests.
  chooseModel(name) {
    this.model = name;
    this.request = this.instance = null;
    this.keep();
  }

  chooseRequest(id) {
    this.request = id;
    this.keep();
  }

  chooseInstance(index, model = this.model) {
    this.instance = index;
    this.model = model;
    this.keep();
  }

  keep() {
    const parts = new URLSearchParams();
    if (this.model !== null) parts.set("model", this.model);
    if (this.request !== null) parts.set("request", this.request);
    if (this.instance !== null) parts.set("instance", this.instance);
    const hash = parts.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    this.tell(true);
  }

  tell(isAsked) {
    for (const listener of this.listeners) listener(isAsked);
  }
}
