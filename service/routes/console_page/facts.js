// What is served, from the JSON that `/` gives to programs. Every text goes in as text, never as markup.

const STAGES = { purify: "on the way in", abstain: "before any answer", obscure: "on the way out" };
// By stage, for a defence that is enforced. Which of several detectors refused, and how nearly, is not for clients.
const DID = {
  purify: { answered: "purified the image", abstained: "purified the image" },
  abstain: { answered: "let the image pass", abstained: "refused the image" },
  obscure: { answered: "blurred the probabilities", abstained: "had no answer to blur" },
};
const ONE_OF_THEM = "this detector or another refused the image";
const IDLE = { monitor: "looked on, changed nothing", off: "did nothing" };
const LINKS = [
  ["docs", "API description", "OpenAPI"],
  ["schema", "BentoML schema", "for its clients"],
  ["open_inference", "Open Inference Protocol", "v2"],
  ["open_inference_model", "Model metadata", "v2"],
  ["ready", "Readiness", "health check"],
  ["metrics", "Metrics", "Prometheus"],
];
const LABELS_SHOWN = 12;

export const byId = (id) => document.getElementById(id);

/** An element with a class and texts or elements in it. */
export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Relative, so that the page works behind a proxy that adds a prefix. */
const here = (path) => `.${path}`;

export function showFacts(facts) {
  document.title = `${facts.model} · Hauberk`;
  byId("model").textContent = facts.model;
  byId("model-version").textContent = facts.model_version;
  byId("software").textContent = `Hauberk ${facts.software}`;
  byId("shape").textContent = describeShape(facts.input_shape);
  byId("classes").textContent = facts.classes;
  showLabels(facts);
  showDefences(facts.defences);
  showLinks(facts);
}

export function describeShape([height, width, channels]) {
  const colours = { 1: "grey", 3: "RGB" }[channels] ?? `${channels} channels`;
  return `${width} × ${height}, ${colours}`;
}

export function labelAt(facts, index) {
  return facts.labels[index] ?? `class ${index}`;
}

function showLabels({ labels, classes }) {
  const items = labels.slice(0, LABELS_SHOWN).map((label) => {
    const item = element("li", "", label);
    item.title = label;
    return item;
  });
  if (classes > items.length) items.push(element("li", "more", `and ${classes - items.length} more`));
  byId("labels").replaceChildren(...items);
}

/** The data path: the image, what purifies it, the classifier, the detectors, what is changed on the way out, the answer. */
function showDefences(defences) {
  const items = { purify: [], abstain: [], obscure: [] };
  for (const { title, stage, mode, summary } of defences) {
    const head = element("p", "path-head", element("strong", "", title), element("span", "mode", mode));
    const item = element("li", "", head, element("p", "path-summary", summary), element("p", "hint", STAGES[stage] ?? ""));
    item.dataset.mode = mode;
    item.dataset.stage = stage;
    items[stage]?.push(item);
  }
  const none = defences.length ? [] : [element("li", "node", "This bundle declares no defence.")];
  const [image, classifier, answer] = ["Image", "Classifier", "Answer"].map((name) => element("li", "node", name));
  byId("defences").replaceChildren(image, ...items.purify, classifier, ...none, ...items.abstain, ...items.obscure, answer);
}

/** Mark on the data path what each defence did to the last image: `kind` is answered or abstained, anything else clears the marks. */
export function markDefences(kind) {
  const steps = [...byId("defences").querySelectorAll("li[data-stage]")];
  const detectors = steps.filter((step) => step.dataset.stage === "abstain" && step.dataset.mode === "enforce");
  for (const step of steps) {
    step.querySelector(".did")?.remove();
    delete step.dataset.did;
    const { stage, mode } = step.dataset;
    if (!DID[stage][kind]) continue;
    const refused = stage === "abstain" && kind === "abstained";
    const text = IDLE[mode] ?? (refused && detectors.length > 1 ? ONE_OF_THEM : DID[stage][kind]);
    step.append(element("p", "did", text));
    step.dataset.did = mode !== "enforce" || (stage === "obscure" && kind === "abstained") ? "idle" : refused ? "refused" : "done";
  }
}

/** The same in one sentence, for beside the answer. */
export function describePath({ defences }) {
  const on = (stage) => defences.some((defence) => defence.stage === stage && defence.mode === "enforce");
  const parts = [
    on("purify") ? "purified" : "",
    on("abstain") ? "passed the detectors" : "",
    on("obscure") ? "probabilities blurred" : "",
  ].filter(Boolean).join(", ");
  return parts && `${parts[0].toUpperCase()}${parts.slice(1)}.`;
}

function showLinks({ links, input_shape: [, , channels] }) {
  const items = LINKS.filter(([name]) => links[name]).map(([name, title, note]) => {
    const link = element("a", "", title);
    link.href = here(links[name]);
    return element("li", "", link, " ", element("span", "hint", note));
  });
  byId("links").replaceChildren(...items);
  const picture = channels === 1 || channels === 3;
  const path = new URL(here(links.predict), document.baseURI).href;
  byId("curl").textContent = picture
    ? `curl -s -H 'content-type: image/png' \\\n  --data-binary @image.png \\\n  ${path}/image`
    : `curl -s -H 'content-type: application/json' \\\n  -d @images.json \\\n  ${path}`;
}
