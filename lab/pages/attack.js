// One image under an attack, answered while the slider moves.

import { Asker, bars, draw, listenToSteps, optionsOf } from "./pictures.js";

const section = document.getElementById("one");
const byId = (id) => document.getElementById(id);
const text = (name, value) => (section.querySelector(`[data-text="${name}"]`).textContent = value);

function show(answer) {
  for (const name of ["before", "change", "after"]) draw(section.querySelector(`[data-picture="${name}"]`), answer[name]);
  for (const name of ["says_before", "says_after"]) bars(section.querySelector(`[data-bars="${name}"]`), answer[name]);
  for (const name of ["label", "amplified", "linf", "l2"]) text(name, answer[name]);
  const [before, after] = [answer.says_before[0].class, answer.says_after[0].class];
  text("verdict", before === after ? `still answered ${after}` : `${before} became ${after}`);
  section.classList.toggle("fooled", before !== after);
  byId("cost").dataset.said = `${answer.queries} queries, ${answer.gradients} gradients; `;
}

const asker = new Asker(section, { options: () => optionsOf(section), show, cost: byId("cost") });

function changed() {
  const chosen = byId("attack").selectedOptions[0];
  byId("strength").disabled = !chosen.dataset.strength;
  byId("strength-name").textContent = chosen.dataset.strength ? `Strength, the ${chosen.dataset.strength}` : "Strength";
  const own = chosen.dataset.trigger === undefined ? "none, it seeks the smallest" : "none, a trigger has its own";
  byId("strength-value").textContent = chosen.dataset.strength ? byId("strength").value : own;
  byId("attack-note").textContent = `${chosen.textContent}: ${chosen.dataset.note}.`;
  asker.ask();
}

if (byId("attack").selectedOptions[0]?.disabled) byId("attack").value = [...byId("attack").options].find((one) => !one.disabled).value;
for (const field of section.querySelectorAll("[data-option]")) field.addEventListener("input", changed);
listenToSteps(section, changed);
changed();
