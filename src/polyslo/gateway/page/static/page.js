// The live page: snapshots come in, each part of the page draws itself from the newest.

import { Feed } from "./feed.js";
import { Fleet } from "./fleet.js";
import { Headline } from "./headline.js";
import { byId, write } from "./markup.js";
import { Models } from "./models.js";
import { duration } from "./quantities.js";
import { Requests } from "./requests.js";
import { Selection } from "./selection.js";
import { Story } from "./story.js";
import { Stream } from "./stream.js";

const LINK_WORDS = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  stale: "Stale",
  lost: "Disconnected",
};

const selection = new Selection();
const models = new Models(selection);
const parts = [
  models,
  new Headline(),
  new Fleet(selection),
  new Feed(selection),
  new Story(selection),
  new Requests(selection),
];

function draw(state) {
  for (const part of parts) part.draw(state);
}

function drawLink({ link, age_s, retry_s, detail, isPolling }) {
  const isChanged = document.body.dataset.link !== link;
  document.body.dataset.link = link;
  write(byId("link-text"), link === "live" && isPolling ? "Live, every few seconds" : LINK_WORDS[link]);
  const isBad = link === "stale" || link === "lost";
  byId("notice").hidden = !isBad;
  if (!isBad) return;
  write(byId("notice"), noticeOf(link, age_s, retry_s, detail));
  if (isChanged) write(byId("spoken"), byId("notice").textContent); // its countdown is not for reading aloud
}

function noticeOf(link, age_s, retry_s, detail) {
  const why = detail ? ` (${detail})` : "";
  const age = age_s === null ? "Nothing came yet" : `What you see is ${duration(Math.round(age_s))} old`;
  if (link === "stale") return `The gateway is silent${why}. ${age}.`;
  const next = retry_s === null || retry_s < 1 ? "Trying again now" : `Trying again in ${Math.round(retry_s)} s`;
  return `The gateway cannot be reached${why}. ${age}. ${next}.`;
}

function drawMissing(model) {
  models.miss(model);
  selection.chooseModel(null);
}

const stream = new Stream(selection.model, draw, drawLink, drawMissing);
selection.onChange(() => stream.watch(selection.model));
