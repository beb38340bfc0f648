// The stream of snapshots: /events while it lasts, /state when it does not, and honesty about how old the news is.
//
// EventSource reconnects by itself after a broken connection but gives up after an HTTP error; so each failure
// closes it, and a new one is opened after a growing pause. Some proxies hold back event streams for ever: when
// the stream is silent, /state is polled instead.

const STALE_S = 4; // snapshots come once a second
const FIRST_PAUSE_S = 1;
const LONGEST_PAUSE_S = 8;
const CHECK_MS = 1000;

export class Stream {
  // onState(snapshot) for each one; onLink({link, age_s, retry_s, detail}) once a second and at each change;
  // onMissing(model) when the gateway has no such model. `model` null: the gateway's first.
  constructor(model, onState, onLink, onMissing) {
    this.model = model;
    this.onState = onState;
    this.onLink = onLink;
    this.onMissing = onMissing;
    this.source = null;
    this.pause_s = FIRST_PAUSE_S;
    this.retryAt_ms = null;
    this.seenAt_ms = null;
    this.seenUnix_s = null;
    this.isPolling = false;
    this.isLost = false; // from a failure until the next news
    this.detail = "";
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    setInterval(() => this.check(), CHECK_MS);
    this.open();
  }

  // Follow another model; what was seen is no news of it.
  watch(model) {
    if (model === this.model) return;
    this.model = model;
    this.seenAt_ms = null;
    this.seenUnix_s = null;
    this.isLost = false;
    this.detail = "";
    this.pause_s = FIRST_PAUSE_S;
    this.open();
    this.report();
  }

  address(path) {
    return this.model === null ? path : `${path}?${new URLSearchParams({ model: this.model })}`;
  }

  open() {
    this.close();
    this.openedAt_ms = performance.now();
    this.poll(); // the first picture does not wait for the stream's next second
    this.source = new EventSource(this.address("events"));
    this.source.addEventListener("state", (event) => this.take(event.data, false));
    this.source.addEventListener("error", () => this.fail());
  }

  // Nobody looks at a hidden page: the gateway need not serve it.
  close() {
    this.source?.close();
    this.source = null;
    this.retryAt_ms = null;
  }

  take(text, isPolled) {
    let snapshot;
    try {
      snapshot = JSON.parse(text);
    } catch {
      this.detail = "what came was not JSON";
      return;
    }
    // A cache, or a gateway that is stuck, repeats itself: that is not news.
    if (snapshot.now_unix_s === this.seenUnix_s) return;
    this.seenUnix_s = snapshot.now_unix_s;
    this.seenAt_ms = performance.now();
    this.isPolling = isPolled;
    this.isLost = false;
    this.detail = "";
    if (!isPolled) this.pause_s = FIRST_PAUSE_S;
    this.onState(snapshot);
    this.report();
  }

  fail() {
    this.close();
    this.isLost = true;
    this.retryAt_ms = performance.now() + this.pause_s * 1000;
    this.pause_s = Math.min(LONGEST_PAUSE_S, this.pause_s * 2);
    this.report();
  }

  async poll() {
    const { model, openedAt_ms } = this;
    const isPast = () => model !== this.model || openedAt_ms !== this.openedAt_ms;
    try {
      const response = await fetch(this.address("state"), {
        cache: "no-store",
        signal: AbortSignal.timeout(STALE_S * 1000),
      });
      const text = await response.text();
      if (isPast()) return;
      if (response.status === 404 && isAboutModel(text)) this.onMissing(model);
      else if (!response.ok) throw new Error(refusal(response.status));
      else this.take(text, true);
    } catch (error) {
      if (isPast()) return;
      this.detail =
        error.name === "TimeoutError" ? "it does not answer" : error.name === "TypeError" ? "" : error.message;
    }
  }

  check() {
    if (document.hidden) return;
    if (this.retryAt_ms !== null && performance.now() >= this.retryAt_ms) this.open();
    else if (this.source && this.silence_s() > STALE_S && !this.isAsking) this.ask();
    this.report();
  }

  async ask() {
    this.isAsking = true;
    await this.poll();
    this.isAsking = false;
  }

  // How long the open stream has been silent.
  silence_s() {
    return (performance.now() - Math.max(this.openedAt_ms, this.seenAt_ms ?? 0)) / 1000;
  }

  report() {
    const now_ms = performance.now();
    const age_s = this.seenAt_ms === null ? null : (now_ms - this.seenAt_ms) / 1000;
    const retry_s = this.retryAt_ms === null ? null : Math.max(0, (this.retryAt_ms - now_ms) / 1000);
    this.onLink({ link: this.link(age_s), age_s, retry_s, detail: this.detail, isPolling: this.isPolling });
  }

  link(age_s) {
    const isRecent = age_s !== null && age_s < STALE_S;
    if (this.isLost) return isRecent ? "reconnecting" : "lost"; // a short break is no cause for alarm
    if (age_s === null) return "connecting";
    return age_s > STALE_S * 1.5 ? "stale" : "live";
  }
}

// The gateway's own word; a proxy's 404 says nothing of models.
function isAboutModel(text) {
  try {
    return JSON.parse(text).error?.code === "model_not_found";
  } catch {
    return false;
  }
}

function refusal(status) {
  if (status === 401 || status === 403)
    return `it answers ${status}: this page needs to be let in, see the gateway's API keys`;
  return `it answers ${status}`;
}
