// Forms, uploads and jobs of every page.

import { clearErrors, showError } from "./pictures.js";

const LOOK_MS = 700;

async function post(path, body, within) {
  clearErrors(within);
  let answer;
  try {
    const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    answer = await response.json();
  } catch {
    answer = { field: "", sentence: "The lab cannot be reached. Is it still running?" };
  }
  if (!answer.location) return showError(within, answer);
  const here = location.pathname + location.hash === answer.location || location.pathname === answer.location.split("#")[0];
  location.assign(answer.location);
  if (here) location.reload();
}

function read(form) {
  const found = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled) continue;
    if (field.dataset.many !== undefined) {
      found[field.name] ??= [];
      if (field.checked) found[field.name].push(field.value);
    } else found[field.name] = field.dataset.given ?? field.value;
  }
  return found;
}

function listenToForms() {
  for (const form of document.querySelectorAll("form[data-post]")) {
    for (const button of form.querySelectorAll('[type="submit"]')) button.disabled = false; // before, the browser itself would send it
    form.noValidate = true; // the sentences beside the fields are the lab's own
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = form.querySelector('[type="submit"]');
      if (button.getAttribute("aria-disabled") === "true") return;
      button.setAttribute("aria-disabled", "true");
      await post(form.dataset.post, read(form), form);
      button.removeAttribute("aria-disabled");
    });
  }
  for (const button of document.querySelectorAll("button[data-post]")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      if (button.dataset.confirm && !confirm(button.dataset.confirm)) return;
      const within = button.closest("section") ?? document.body;
      post(button.dataset.post, {}, within.querySelector("[data-error-for]") ? within : withError(within));
    });
  }
}

/** A place for a sentence, in a section that has none. */
function withError(section) {
  const place = document.createElement("p");
  place.className = "error";
  place.dataset.errorFor = "";
  place.setAttribute("role", "alert");
  place.hidden = true;
  section.append(place);
  return section;
}

function listenToUploads() {
  for (const input of document.querySelectorAll("input[data-upload]")) {
    const field = document.getElementById(input.dataset.into);
    field.addEventListener("input", () => delete field.dataset.given);
    input.addEventListener("change", () => input.files[0] && upload(input, field, input.files[0]));
  }
}

function upload(input, field, file) {
  const form = input.form;
  const submit = form.querySelector('[type="submit"]');
  clearErrors(form);
  submit.setAttribute("aria-disabled", "true");
  const request = new XMLHttpRequest(); // which says how much is sent
  request.open("PUT", `/uploads/${input.dataset.upload}?name=${encodeURIComponent(file.name)}`);
  request.responseType = "json";
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    field.value = `${file.name}: ${Math.round((100 * loaded) / total)} %`;
  });
  request.addEventListener("loadend", () => {
    submit.removeAttribute("aria-disabled");
    if (request.status === 200) {
      field.dataset.given = request.response.given;
      field.value = request.response.name;
      return;
    }
    field.value = "";
    input.value = "";
    showError(form, request.response ?? { field: input.dataset.upload, sentence: "The upload was cut off." });
  });
  request.send(file);
}

/** Follow a job until it is over, and show the page anew. */
async function follow(place) {
  try {
    const response = await fetch(`/jobs/${place.dataset.job}.json`, { cache: "no-store" });
    if (!response.ok) return;
    const job = await response.json();
    if (job.over) return location.reload();
    place.querySelector('[data-shows="state"]').textContent = job.state;
    const ahead = job.ahead ? `${job.ahead} before it` : "";
    place.querySelector('[data-shows="about"]').textContent = [`${job.what} ${job.progress}`.trim(), job.left, ahead].filter(Boolean).join(", ");
    place.querySelector("progress").value = job.share;
  } catch {
    place.querySelector('[data-shows="about"]').textContent = "The lab cannot be reached.";
  }
  setTimeout(() => follow(place), LOOK_MS);
}

for (const place of document.querySelectorAll("[data-job]:not([data-over])")) setTimeout(() => follow(place), LOOK_MS);
for (const slider of document.querySelectorAll("[data-shown]")) {
  slider.addEventListener("input", () => (document.getElementById(slider.dataset.shown).textContent = slider.value));
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.disabled = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2_000);
  });
}
listenToForms();
listenToUploads();
