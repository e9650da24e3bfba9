// What is served, from the JSON that `/` gives to programs. Every text goes in as text, never as markup.

const STAGES = { purify: "on the way in", abstain: "before any answer", obscure: "on the way out" };
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

function showDefences(defences) {
  const items = defences.map(({ title, stage, mode, summary }) => {
    const head = element("p", "coat-head", element("strong", "", title), element("span", "mode", mode));
    const item = element("li", "", head, element("p", "coat-summary", summary), element("p", "hint", STAGES[stage] ?? ""));
    item.dataset.mode = mode;
    return item;
  });
  if (!items.length) items.push(element("li", "none", "This bundle declares no defence."));
  byId("defences").replaceChildren(...items);
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
