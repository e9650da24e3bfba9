// Pictures and bars of an answer: drawn on canvases and built from elements, never from text.

/** A picture { width, height, channels, data in base64 } on a canvas, pixel by pixel. */
export function draw(canvas, picture, channelOf = (pixel) => pixel) {
  const bytes = Uint8Array.from(atob(picture.data), (one) => one.charCodeAt(0));
  const { width, height, channels } = picture;
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    const [r, g, b] = channels === 1 ? Array(3).fill(bytes[at]) : bytes.subarray(3 * at, 3 * at + 3);
    image.data.set([...channelOf([r, g, b]), 255], 4 * at);
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** From dark to bright over red: a heat map that is also ordered by its lightness. */
export function heat([value]) {
  const t = value / 255;
  return [Math.min(255, 510 * t), Math.max(0, 340 * t - 85), Math.max(0, 1020 * t - 765)];
}

/** A list of classes with their probabilities, as bars. */
export function bars(list, answer) {
  list.replaceChildren(
    ...(answer ?? []).slice(0, 5).map(({ class: name, probability }) => {
      const row = document.createElement("li");
      const [label, track, value] = ["bar-name", "bar-track", "bar-value"].map((kind) => {
        const part = document.createElement("span");
        part.className = kind;
        return part;
      });
      label.textContent = name;
      value.textContent = `${(100 * probability).toFixed(1)} %`;
      const fill = document.createElement("span");
      fill.className = "bar-fill";
      fill.style.width = `${100 * probability}%`;
      track.append(fill);
      row.append(label, track, value);
      return row;
    }),
  );
}

/** Ask again whenever something is moved: one question at a time, and of those that wait only the last. */
export class Asker {
  constructor(section, { options, show, cost }) {
    this.section = section;
    this.options = options;
    this.show = show;
    this.cost = cost;
    this.busy = this.again = false;
  }

  async ask() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    this.section.querySelector("#shown").setAttribute("aria-busy", "true");
    const started = performance.now();
    try {
      const response = await fetch(this.section.dataset.ask, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(this.options()),
      });
      const answer = await response.json();
      clearErrors(this.section);
      if (response.ok) {
        this.show(answer);
        this.cost.textContent = `${this.cost.dataset.said ?? ""}answered in ${Math.round(performance.now() - started)} ms`;
      } else {
        showError(this.section, answer);
      }
    } catch {
      showError(this.section, { field: "", sentence: "The lab cannot be reached. Is it still running?" });
    } finally {
      this.busy = false;
      this.section.querySelector("#shown").setAttribute("aria-busy", "false");
      if (this.again) {
        this.again = false;
        this.ask();
      }
    }
  }
}

/** The sentence beside its field, or above where the page has no such field. */
export function showError(within, { field = "", sentence = "Something failed." }) {
  const beside = within.querySelector(`[data-error-for="${CSS.escape(field)}"]`) ?? within.querySelector('[data-error-for=""]');
  beside.textContent = sentence;
  beside.hidden = false;
  beside.closest(".field")?.querySelector("input:not([type=file]), select")?.setAttribute("aria-invalid", "true");
  beside.closest("details")?.setAttribute("open", "");
  beside.scrollIntoView({ block: "nearest" });
}

export function clearErrors(within) {
  for (const one of within.querySelectorAll("[data-error-for]")) one.hidden = true;
  for (const one of within.querySelectorAll("[aria-invalid]")) one.removeAttribute("aria-invalid");
}

/** What the fields with data-option say, and the buttons that step through images. */
export function optionsOf(section) {
  const found = {};
  for (const one of section.querySelectorAll("[data-option]")) found[one.dataset.option] = one.value;
  return found;
}

export function listenToSteps(section, changed) {
  for (const button of section.querySelectorAll("[data-step]")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      const field = section.querySelector('[data-option="image"]');
      const wanted = Number(field.value) + Number(button.dataset.step);
      field.value = String(Math.min(Number(field.max), Math.max(0, wanted)));
      changed();
    });
  }
}
