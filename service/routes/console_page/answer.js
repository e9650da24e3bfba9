// The answer to one image: a class, an abstention, or why there is neither.

import { byId, describePath, element, labelAt, markDefences } from "./facts.js";

const BARS_AT_MOST = 10;
const PLACES_AT_MOST = 5;
const LONG = 14; // characters that fit a line at the largest size

export function showNothing() {
  say("none", "Nothing yet", "Give it an image, then classify.");
}

/** Whether the answer is to another image than the one that would be sent now. */
export function showStale(stale) {
  byId("stale").hidden = !stale;
}

export function showWaiting() {
  say("waiting", "Classifying…", "");
}

export function showPrediction(facts, prediction, { requestId, milliseconds }) {
  if (prediction.abstained) {
    say("abstained", "Abstained", "The defences refused to answer: this image looks tampered with.");
  } else {
    say("answered", prediction.label, describePath(facts));
    showBars(facts, prediction);
  }
  trail(`${Math.round(milliseconds)} ms`, requestId);
}

/** `problem`: RFC 9457, or as much of it as there is. */
export function showProblem({ title, detail, errors, retryAfter, requestId }) {
  const again = retryAfter ? ` Try again in ${retryAfter} s.` : "";
  say("problem", title, `${detail}${again}`);
  const places = (errors ?? []).slice(0, PLACES_AT_MOST).map((place) =>
    element("li", "", element("code", "", String(place.pointer)), ` ${place.detail}`));
  byId("problems").replaceChildren(...places);
  byId("problems").hidden = !places.length;
  if (requestId) trail("", requestId);
}

function say(kind, headline, detail) {
  byId("answer").dataset.kind = kind;
  markDefences(kind);
  byId("headline").textContent = headline;
  byId("headline").title = headline;
  byId("headline").classList.toggle("long", headline.length > LONG);
  byId("detail").textContent = detail;
  byId("detail").hidden = !detail;
  for (const id of ["problems", "bars", "bars-note", "trail"]) byId(id).hidden = true;
}

function trail(time, requestId) {
  const id = element("span", "id", "request ", element("code", "", requestId));
  byId("trail").replaceChildren(...(time ? [element("span", "", time)] : []), id);
  byId("trail").hidden = false;
}

function showBars(facts, { label, probabilities }) {
  const many = probabilities.length > BARS_AT_MOST;
  let shown = probabilities.map((probability, index) => ({ probability, name: labelAt(facts, index) }));
  if (many) shown = shown.sort((a, b) => b.probability - a.probability).slice(0, BARS_AT_MOST);
  const digits = Math.max(...probabilities) < 0.1 ? 2 : 1;
  const items = shown.map(({ probability, name }) => {
    const [text, fill] = [element("span", "bar-name", name), element("span", "bar-fill")];
    text.title = name;
    fill.style.width = `${100 * probability}%`;
    const value = element("span", "bar-value", `${(100 * probability).toFixed(digits)} %`);
    const item = element("li", name === label ? "top" : "", text, element("span", "bar-track", fill), value);
    return item;
  });
  byId("bars").replaceChildren(...items);
  byId("bars").hidden = false;
  const blurred = facts.defences.some((defence) => defence.stage === "obscure" && defence.mode === "enforce");
  const notes = [
    many ? `The likeliest ${BARS_AT_MOST} of ${probabilities.length}.` : "",
    blurred ? "Blurred on purpose: the likeliest class stays the likeliest." : "",
  ];
  byId("bars-note").textContent = notes.filter(Boolean).join(" ");
  byId("bars-note").hidden = !byId("bars-note").textContent;
}
