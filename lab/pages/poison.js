// Samples of a scan: opened large from a picture, a point or a row, and marked as poison or clean.

import { clearErrors, showError } from "./pictures.js";

const section = document.getElementById("scan");
const zoom = document.getElementById("zoom");
const look = document.getElementById("look");
const thumbs = [...section.querySelectorAll(".samples [data-zoom]")];
let shown = null; // what the dialog shows
let openers = []; // what it goes through, and where it is; nothing where it goes row by row
let at = -1;
let asked = 0; // the newest question: answers to older ones come too late
let sent = Promise.resolve(); // one mark after the other, so that the last tick is what is kept

const errors = () => (zoom.open ? zoom : document.getElementById("marks"));

/** What a request is answered, or a sentence. */
async function answered(path, options) {
  try {
    return await (await fetch(path, options)).json();
  } catch {
    return { field: "", sentence: "The lab cannot be reached. Is it still running?" };
  }
}

/** Show everywhere what a sample is held for. */
function hold(row, poison) {
  for (const one of section.querySelectorAll(`[data-sample="${row}"]`)) {
    const box = one.querySelector("input");
    if (box) {
      box.checked = poison;
      one.classList.toggle("poison", poison);
    } else one.classList.toggle("marked", poison !== (one.dataset.suspicious !== undefined));
  }
  if (shown?.row === row) zoom.querySelector("input").checked = poison;
}

/** Send a mark; one that was refused is taken back. */
function mark(row, poison) {
  hold(row, poison);
  sent = sent.then(async () => {
    const body = JSON.stringify({ row, poison });
    const answer = await answered(section.dataset.mark, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    clearErrors(section);
    hold(row, answer.marked === undefined ? !poison : poison);
    if (answer.marked === undefined) return showError(errors(), answer);
    for (const name of ["marked", "suspicious"]) section.querySelector(`[data-shows="${name}"]`).textContent = answer[name].toLocaleString("en-GB");
  });
}

/** Ask for a sample, and show it once it is there. */
async function open(row) {
  const mine = ++asked;
  await sent;
  const sample = await answered(`${section.dataset.samples}${row}.json`);
  if (mine !== asked) return;
  clearErrors(section);
  if (sample.row === undefined) return showError(errors(), sample);
  shown = sample;
  const image = zoom.querySelector("img");
  image.hidden = !sample.pictured;
  image.alt = `sample ${sample.row}, labelled ${sample.label}, answered ${sample.answer}`;
  if (sample.pictured) image.src = `${section.dataset.samples}${row}.png`;
  zoom.querySelector("#zoom-title").textContent = image.alt + (sample.pictured ? "" : "; its picture was not kept");
  zoom.querySelector("input").checked = sample.poison;
  if (!zoom.open) zoom.showModal();
}

function openFrom(these, opener) {
  openers = these;
  at = these.indexOf(opener);
  open(Number(opener.dataset.row));
}

/** The sample before or after: of those beside the one that was opened, or by row. */
function turn(step) {
  if (openers.length) return openFrom(openers, openers[(at + step + openers.length) % openers.length]);
  const count = Number(section.dataset.count);
  look.elements.row.value = String((Number(look.elements.row.value) + step + count) % count);
  open(Number(look.elements.row.value));
}

const elsewhere = (event) => event.ctrlKey || event.metaKey || event.shiftKey; // a tab of its own

function listenToPictures() {
  for (const thumb of thumbs) {
    thumb.addEventListener("click", (event) => {
      if (elsewhere(event)) return;
      event.preventDefault();
      openFrom(thumbs, thumb);
    });
  }
  for (const box of section.querySelectorAll(".samples input")) {
    box.disabled = false;
    box.addEventListener("change", () => mark(Number(box.dataset.row), box.checked));
  }
  look.querySelector("button").disabled = false;
  look.noValidate = true;
  look.addEventListener("submit", (event) => {
    event.preventDefault();
    openers = [];
    const row = look.elements.row.value;
    if (/^\d{1,9}$/.test(row)) return open(Number(row));
    clearErrors(section);
    showError(errors(), { field: "row", sentence: "Expected the row of a sample, a whole number." });
  });
}

const NEAR_PX = 24;

/** The point nearest to a click; points are small, and fingers are not. */
function nearest(points, { clientX, clientY }) {
  const far = (point) => {
    const { left, top, width, height } = point.getBoundingClientRect();
    return Math.hypot(left + width / 2 - clientX, top + height / 2 - clientY);
  };
  const distances = points.map(far);
  const least = Math.min(...distances);
  return least <= NEAR_PX ? points[distances.indexOf(least)] : undefined;
}

function listenToPoints(drawing) {
  const points = [...drawing.querySelectorAll(".point")];
  const reach = (point) => {
    for (const one of points) one.setAttribute("tabindex", one === point ? "0" : "-1");
  };
  drawing.addEventListener("click", (event) => {
    const point = event.target.closest(".point") ?? nearest(points, event);
    if (!point || elsewhere(event)) return;
    event.preventDefault();
    openFrom(points, point);
  });
  drawing.addEventListener("focusin", ({ target }) => points.includes(target) && reach(target));
  drawing.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -points.length, End: points.length };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    points[Math.min(points.length - 1, Math.max(0, points.indexOf(event.target) + step))].focus();
  });
}

function listenToZoom() {
  for (const button of zoom.querySelectorAll("[data-turn]")) button.addEventListener("click", () => turn(Number(button.dataset.turn)));
  zoom.querySelector("[data-close]").addEventListener("click", () => zoom.close());
  zoom.querySelector("input").addEventListener("change", (event) => mark(shown.row, event.target.checked));
  zoom.addEventListener("keydown", ({ key }) => {
    if (key === "ArrowLeft" || key === "ArrowRight") turn(key === "ArrowLeft" ? -1 : 1);
  });
  zoom.addEventListener("close", () => {
    asked++;
    shown = null;
    (openers[at] ?? look.elements.row).focus();
  });
}

if (zoom) {
  listenToPictures();
  for (const drawing of section.querySelectorAll(".scatter > svg")) listenToPoints(drawing);
  listenToZoom();
}
