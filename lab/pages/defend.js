// One image on its way through the defences, asked again whenever a switch or a slider moves.

import { Asker, bars, draw, heat, listenToSteps, optionsOf } from "./pictures.js";

const section = document.getElementById("armour");
const byId = (id) => document.getElementById(id);
const text = (name, value) => (section.querySelector(`[data-text="${name}"]`).textContent = value);
const stage = (name) => section.querySelector(`[data-stage="${name}"]`);
const sliders = [...section.querySelectorAll("[data-parameter]")];
const moved = new Set();
const NAMES = { sentinet: "SentiNet", badexpert: "BaDExpert", patch_cleanser: "PatchCleanser" };

function options() {
  const on = [...section.querySelectorAll("[data-defence]")].filter((one) => one.checked).map((one) => one.dataset.defence);
  const parameters = Object.fromEntries(sliders.filter((one) => moved.has(one)).map((one) => [one.dataset.parameter, Number(one.value)]));
  return { ...optionsOf(section), on, parameters };
}

function show(answer) {
  for (const name of ["image", "purified", "purified_change"]) draw(section.querySelector(`[data-picture="${name}"]`), answer[name]);
  for (const name of ["undefended", "raw", "returned"]) bars(section.querySelector(`[data-bars="${name}"]`), answer[name]);
  for (const name of ["label", "amplified"]) text(name, answer[name]);
  text("purified_told", answer.purifies ? "as the classifier sees it" : "no purifier is on");
  text("returned_told", answer.refused ? "Refused: no answer" : `Answered ${answer.returned[0].class}`);
  section.classList.toggle("refused", answer.refused);
  showStrip(answer);
  stage("sentinet").hidden = !answer.sentinet;
  if (answer.sentinet) draw(section.querySelector('[data-picture="heat"]'), answer.sentinet.heat, heat);
  showOthers(answer.detections.filter((one) => !["strip"].includes(one.name)));
  byId("cost").dataset.said = `${answer.model_calls} model calls; `;
  for (const slider of sliders) if (!moved.has(slider)) slider.value = answer.parameters[slider.dataset.parameter] ?? slider.value;
  showValues();
}

function showStrip({ strip, detections }) {
  stage("strip").hidden = !strip;
  if (!strip) return;
  const refuses = detections.some((one) => one.name === "strip" && one.refuses);
  const { mean, threshold, unit, count } = strip;
  text("strip_told", `${mean} ${unit} on average under ${count} overlays; refuses at ${threshold} or less: ${refuses ? "refused" : "passes"}.`);
  byId("overlays").replaceChildren(
    ...strip.overlays.map(({ image, score, answer }) => {
      const [item, canvas, told] = ["li", "canvas", "span"].map((kind) => document.createElement(kind));
      draw(canvas, image);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `under an overlay, answered ${answer}`);
      told.textContent = `${answer} · ${score.toFixed(2)}`;
      item.classList.toggle("low", score <= threshold);
      item.append(canvas, told);
      return item;
    }),
  );
}

function showOthers(others) {
  stage("detectors").hidden = !others.length;
  byId("detections").replaceChildren(
    ...others.map(({ name, score, refuses, calls }) => {
      const item = document.createElement("li");
      item.textContent = `${NAMES[name] ?? name.replaceAll("_", " ")}: score ${score ?? "none"}, ${calls} model calls, ${refuses ? "refuses" : "passes"}`;
      return item;
    }),
  );
}

function showValues() {
  const { strength, note } = byId("attack").selectedOptions[0].dataset; // a note is of a quick look only
  byId("strength").disabled = !strength;
  byId("strength-value").textContent = strength ? byId("strength").value : "none";
  byId("attack-note").textContent = note ? `${byId("attack").selectedOptions[0].textContent}: ${note}.` : "";
  byId("attack-note").hidden = !note;
  for (const slider of sliders) {
    section.querySelector(`[data-value-of="${slider.dataset.parameter}"]`).textContent = Number(slider.value).toPrecision(3);
  }
}

const asker = new Asker(section, { options, show, cost: byId("cost") });

function changed() {
  showValues();
  asker.ask();
}

for (const field of section.querySelectorAll("[data-option], [data-defence]")) field.addEventListener("input", changed);
for (const slider of sliders) {
  slider.addEventListener("input", () => {
    moved.add(slider);
    changed();
  });
}
listenToSteps(section, changed);
changed();
