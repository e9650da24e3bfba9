// Pictures of a scan: opened large, and marked as poison or clean.

import { clearErrors, showError } from "./pictures.js";

const section = document.getElementById("scan");
const samples = [...section.querySelectorAll(".samples li")];
const zoom = document.getElementById("zoom");
let shown = -1;
let sent = Promise.resolve(); // one mark after the other, so that the last tick is what is kept

const tick = (at) => samples[at].querySelector("input");
const look = (at) => samples[at].classList.toggle("poison", tick(at).checked);

/** Send a mark; a tick that was refused goes back. */
async function mark(at) {
  const box = tick(at);
  let answer;
  try {
    const body = JSON.stringify({ row: Number(box.dataset.row), poison: box.checked });
    const response = await fetch(section.dataset.mark, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    answer = await response.json();
  } catch {
    answer = { sentence: "The lab cannot be reached. Is it still running?" };
  }
  clearErrors(section);
  if (answer.marked === undefined) {
    box.checked = !box.checked;
    showError(zoom.open ? zoom : document.getElementById("marks"), answer);
  } else for (const name of ["marked", "suspicious"]) section.querySelector(`[data-shows="${name}"]`).textContent = answer[name].toLocaleString("en-GB");
  look(at);
  if (shown === at) zoom.querySelector("input").checked = box.checked;
}

function show(at) {
  shown = (at + samples.length) % samples.length;
  const image = samples[shown].querySelector("img");
  zoom.querySelector("img").src = image.src;
  zoom.querySelector("img").alt = image.alt;
  zoom.querySelector("#zoom-title").textContent = image.alt;
  zoom.querySelector("input").checked = tick(shown).checked;
  if (!zoom.open) zoom.showModal();
}

samples.forEach((sample, at) => {
  tick(at).disabled = false;
  tick(at).addEventListener("change", () => (sent = sent.then(() => mark(at))));
  sample.querySelector("[data-zoom]").addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
    event.preventDefault();
    show(at);
  });
});

if (zoom) {
  for (const button of zoom.querySelectorAll("[data-turn]")) button.addEventListener("click", () => show(shown + Number(button.dataset.turn)));
  zoom.querySelector("[data-close]").addEventListener("click", () => zoom.close());
  zoom.querySelector("input").addEventListener("change", (event) => {
    tick(shown).checked = event.target.checked;
    const at = shown;
    sent = sent.then(() => mark(at));
  });
  zoom.addEventListener("keydown", ({ key }) => {
    if (key === "ArrowLeft" || key === "ArrowRight") show(shown + (key === "ArrowLeft" ? -1 : 1));
  });
  zoom.addEventListener("close", () => {
    samples[shown].querySelector("[data-zoom]").focus();
    shown = -1;
  });
}
