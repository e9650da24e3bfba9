// The page: where an image comes from, what is sent, and what the server says about itself.

import { showNothing, showPrediction, showProblem, showStale, showWaiting } from "./answer.js";
import { Drawing } from "./drawing.js";
import { byId, describeShape, showFacts } from "./facts.js";
import { alike, fromFile, fromJson, inverted, show, takesTrigger, toNpy, triggered } from "./picture.js";

const ANSWER_MS = 60_000;
const LOOK_MS = { ready: 15_000, other: 2_000 };
const WAYS = ["draw", "sample", "upload"];
const STATES = {
  starting: "starting",
  ready: "ready",
  stopping: "stopping",
  unreachable: "unreachable",
  unclear: "not well",
};

let facts = null;
let way = null; // "draw", "sample" or "upload"
let sample = null; // the bundle's example
let uploaded = null; // the picture of the last file, as it came
let picture = null; // what Classify sends
let classified = null; // what it sent last
let busy = false;
let takes = 0; // files begun to be read: only the last one counts
let looking = 0;

const drawing = new Drawing(byId("drawing"), { changed: () => way === "draw" && refresh(), enter: classify });

function refresh() {
  if (!facts) return;
  picture = chosen();
  if (picture && takesTrigger(facts.input_shape) && byId("trigger").checked) picture = triggered(picture);
  const [height, width, channels] = facts.input_shape;
  show(byId("preview"), picture ?? { width, height, channels, data: new Uint8ClampedArray(width * height * channels) });
  byId("classify").setAttribute("aria-disabled", String(!picture || busy));
  showStale(!busy && picture && classified && !alike(picture, classified));
}

/** The image of the chosen way; none yet is null. */
function chosen() {
  if (way === "draw") return drawing.empty ? null : drawing.picture(byId("centre").checked);
  if (way === "sample") return sample;
  return uploaded && byId("invert").checked ? inverted(uploaded) : uploaded;
}

function choose(wanted) {
  way = wanted;
  for (const name of WAYS) {
    byId(name).hidden = name !== way;
    byId(`way-${name}`).setAttribute("aria-pressed", String(name === way));
  }
  refresh();
}

async function take(file) {
  if (!file || !facts || !WAYS.includes(way)) return;
  const [height, width, channels] = facts.input_shape;
  byId("file-name").textContent = file.name;
  const mine = ++takes;
  try {
    const read = await fromFile(file, width, height, channels);
    if (mine !== takes) return;
    uploaded = read;
  } catch (failure) {
    if (mine !== takes) return;
    uploaded = classified = null;
    showProblem({ title: "Not an image", detail: failure.message });
  }
  choose("upload");
}

function clear() {
  drawing.clear();
  if (busy) return;
  classified = null;
  showNothing();
}

function headers(more) {
  const key = byId("key").value;
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function classify() {
  if (!picture || busy) return;
  busy = true;
  classified = picture;
  showStale(false);
  byId("classify").setAttribute("aria-disabled", "true");
  showWaiting();
  try {
    const started = performance.now();
    const response = await fetch("predict/npy", {
      method: "POST",
      headers: headers({ "Content-Type": "application/x-npy", Accept: "application/json" }),
      body: toNpy(picture),
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    if (!response.ok) return await explain(response);
    const { predictions, request_id: requestId } = await response.json();
    showPrediction(facts, predictions[0], { requestId, milliseconds: performance.now() - started });
  } catch (failure) {
    const late = failure.name === "TimeoutError";
    showProblem({
      title: late ? "No answer" : "Not reachable",
      detail: late ? "The server did not answer within a minute." : "The server cannot be reached, or its answer was cut off.",
    });
    look();
  } finally {
    busy = false;
    refresh();
  }
}

async function explain(response) {
  if (response.status === 401) askForKey();
  const isProblem = (response.headers.get("content-type") ?? "").startsWith("application/problem+json");
  const problem = isProblem ? await response.json().catch(() => ({})) : {};
  showProblem({
    title: problem.title ?? `Status ${response.status}`,
    detail: problem.detail ?? "The server, or something before it, refused without a reason.",
    errors: problem.errors,
    retryAfter: response.headers.get("retry-after"),
    requestId: response.headers.get("x-request-id"),
  });
}

function askForKey() {
  byId("key-field").hidden = false;
  byId("key").focus();
}

/** Fill the page from `/`. */
async function load() {
  const response = await fetch("./", { headers: headers({ Accept: "application/json" }), cache: "no-store" });
  if (response.status === 401) askForKey();
  if (!response.ok) return;
  const changed = facts?.model_version;
  facts = await response.json();
  showFacts(facts);
  if (changed === facts.model_version) return;
  const [height, width, channels] = facts.input_shape;
  drawing.setSize(width, height);
  uploaded = null;
  byId("preview-size").textContent = describeShape(facts.input_shape);
  byId("way-draw").hidden = channels !== 1;
  byId("ways").hidden = channels !== 1;
  byId("trigger-field").hidden = !takesTrigger(facts.input_shape);
  if (channels === 1 || channels === 3) {
    choose(channels === 1 ? "draw" : "upload");
    return offerSample(await readSample(facts));
  }
  byId("no-way").hidden = false;
  byId("no-way").textContent = `This classifier takes ${channels} channels, which no picture of a browser has. Use the API.`;
  refresh();
}

/** The bundle's example as a picture; null where there is none, or none that can be read. */
async function readSample({ links, input_shape: [height, width, channels] }) {
  if (!links.example) return null;
  try {
    const response = await fetch(`.${links.example}`, { headers: headers({}) });
    if (!response.ok) return null;
    return fromJson(await response.json(), width, height, channels);
  } catch {
    return null;
  }
}

function offerSample(read) {
  sample = read;
  byId("way-sample").hidden = !sample;
  if (!sample) return;
  byId("ways").hidden = false;
  show(byId("sample-picture"), sample);
}

/** Ask whether the server is ready: often while it is not, seldom when it is, never while nobody looks. */
async function look() {
  clearTimeout(looking);
  const before = byId("state").dataset.state;
  const state = await asked();
  byId("state").dataset.state = state;
  if (state !== before) byId("state-text").textContent = STATES[state];
  if (!facts || (state === "ready" && before !== "ready" && before !== "asking")) await load().catch(() => {});
  clearTimeout(looking);
  if (!document.hidden) looking = setTimeout(look, LOOK_MS[state] ?? LOOK_MS.other);
}

async function asked() {
  try {
    const response = await fetch("readyz", { headers: headers({}), cache: "no-store", signal: AbortSignal.timeout(5_000) });
    if (response.ok) return "ready";
    const { code } = await response.json();
    return { not_ready: "starting", stopping: "stopping" }[code] ?? "unclear";
  } catch (failure) {
    return failure instanceof SyntaxError ? "unclear" : "unreachable";
  }
}

function listen() {
  for (const name of WAYS) byId(`way-${name}`).addEventListener("click", () => choose(name));
  byId("undo").addEventListener("click", () => drawing.undo());
  byId("clear").addEventListener("click", clear);
  byId("classify").addEventListener("click", classify);
  for (const id of ["centre", "invert", "trigger"]) byId(id).addEventListener("change", refresh);
  byId("file").addEventListener("change", (event) => take(event.target.files[0]));
  byId("key").addEventListener("keydown", (event) => event.key === "Enter" && (facts ? classify() : look()));
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(looking) : look()));
  listenForDrops();
  const clipboard = navigator.clipboard; // only where the page came safely
  byId("copy").hidden = !clipboard;
  byId("copy").addEventListener("click", async () => {
    await clipboard.writeText(byId("curl").textContent);
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy"), 2_000);
  });
}

/** Anywhere on the page, so that a file that misses its place does not replace the page. */
function listenForDrops() {
  const mark = (on) => byId("try").classList.toggle("dragged", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || mark(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    take(event.dataTransfer.files[0]);
  });
}

listen();
look();
