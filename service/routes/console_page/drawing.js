// A canvas to draw on. Strokes are kept as lines, in pixels of the classifier's image, so that they can be drawn again at any size.

import { fromRgba, resize } from "./picture.js";

// Proportions of MNIST's digits: 20 pixels of ink in 28, centred by mass, strokes about 2.6 wide.
const SIDE = 28;
const INK = 20 / SIDE;
const PEN = 2.6 / SIDE;
const FINE = 224; // pixels on the shorter side that a drawing is made with before it is shrunk
const SCREEN = 2; // pixels of the canvas's own for each of its CSS pixels

export class Drawing {
  /** `changed` is called after every change, at most once a frame; `enter` when Enter is pressed. */
  constructor(canvas, { changed, enter }) {
    Object.assign(this, { canvas, changed, enter, strokes: [], current: null, cursor: null, penDown: false });
    this.setSize(SIDE, SIDE);
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.extend(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (this.current = null));
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("blur", () => this.leave());
  }

  /** The size of the classifier's image. */
  setSize(width, height) {
    Object.assign(this, { width, height, pen: Math.max(1, PEN * Math.min(width, height)) });
    const side = 320 * SCREEN;
    this.canvas.width = width >= height ? side : Math.round((side * width) / height);
    this.canvas.height = width >= height ? Math.round((side * height) / width) : side;
    this.clear();
  }

  get empty() {
    return this.strokes.length === 0;
  }

  clear() {
    Object.assign(this, { strokes: [], current: null, cursor: null, penDown: false });
    this.touch();
  }

  undo() {
    this.strokes.pop();
    Object.assign(this, { current: null, penDown: false });
    this.touch();
  }

  /** The drawing in one channel, light on dark; `centred` as MNIST's digits are. */
  picture(centred) {
    const fine = Math.max(1, Math.min(8, Math.round(FINE / Math.min(this.width, this.height))));
    const context = new OffscreenCanvas(this.width * fine, this.height * fine).getContext("2d", { willReadFrequently: true });
    let place = { scale: 1, left: 0, top: 0 };
    if (centred && !this.empty) {
      place = this.boxed();
      const mass = centreOfMass(this.painted(context, fine, place));
      place.left += this.width / 2 - mass.x / fine;
      place.top += this.height / 2 - mass.y / fine;
    }
    return resize(fromRgba(this.painted(context, fine, place), 1), this.width, this.height);
  }

  /** Where strokes go so that their ink fills the box that MNIST's digits fill. */
  boxed() {
    const points = this.strokes.flat();
    const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
    const [left, top] = [Math.min(...xs), Math.min(...ys)];
    const extent = Math.max(Math.max(...xs) - left, Math.max(...ys) - top);
    const wanted = INK * Math.min(this.width, this.height) - this.pen;
    const scale = extent > this.pen ? wanted / extent : 1;
    return { scale, left: this.pen - left * scale, top: this.pen - top * scale };
  }

  painted(context, fine, { scale, left, top }) {
    const { width, height } = context.canvas;
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    this.paint(context, "#fff", this.pen * fine, (point) => [(point.x * scale + left) * fine, (point.y * scale + top) * fine]);
    return context.getImageData(0, 0, width, height);
  }

  paint(context, colour, pen, place) {
    Object.assign(context, { strokeStyle: colour, lineWidth: pen, lineCap: "round", lineJoin: "round" });
    for (const stroke of this.strokes) {
      const points = stroke.map(place);
      context.beginPath();
      context.moveTo(...points[0]);
      for (let i = 1; i < points.length - 1; i++) {
        const [x, y] = points[i];
        context.quadraticCurveTo(x, y, (x + points[i + 1][0]) / 2, (y + points[i + 1][1]) / 2);
      }
      context.lineTo(...points[points.length - 1]); // a dot, too: its round caps
      context.stroke();
    }
  }

  begin(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    this.canvas.setPointerCapture(event.pointerId);
    Object.assign(this, { cursor: null, penDown: false, current: [this.under(event)] });
    this.strokes.push(this.current);
    this.touch();
  }

  extend(event) {
    if (!this.current || !event.isPrimary) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.current.push(this.under(each));
    this.touch();
  }

  under(event) {
    const box = this.canvas.getBoundingClientRect();
    const clamp = (value, most) => Math.max(0, Math.min(most, value));
    return {
      x: clamp(((event.clientX - box.left) / box.width) * this.width, this.width),
      y: clamp(((event.clientY - box.top) / box.height) * this.height, this.height),
    };
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in steps) this.step(...steps[event.key]);
    else if (event.key === " ") this.togglePen();
    else if (event.key === "Backspace" || event.key === "Delete") this.undo();
    else if (event.key === "Enter") this.enter();
    else return;
    event.preventDefault();
  }

  step(right, down) {
    const length = Math.min(this.width, this.height) / SIDE;
    const from = this.cursor ?? { x: this.width / 2, y: this.height / 2 };
    const clamp = (value, most) => Math.max(0, Math.min(most, value));
    this.cursor = { x: clamp(from.x + right * length, this.width), y: clamp(from.y + down * length, this.height) };
    if (this.penDown) this.current.push(this.cursor);
    this.touch();
  }

  togglePen() {
    this.cursor ??= { x: this.width / 2, y: this.height / 2 };
    this.penDown = !this.penDown;
    this.current = this.penDown ? [this.cursor] : null;
    if (this.penDown) this.strokes.push(this.current);
    this.touch();
  }

  leave() {
    if (this.cursor) Object.assign(this, { cursor: null, penDown: false, current: null });
    this.touch();
  }

  touch() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.refresh();
      this.changed();
    });
  }

  refresh() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    const scale = width / this.width;
    const place = (point) => [point.x * scale, point.y * scale];
    context.fillStyle = "#10161a";
    context.fillRect(0, 0, width, height);
    this.paint(context, "#f4f8fa", this.pen * scale, place);
    if (this.empty && !this.cursor) invite(context);
    if (!this.cursor) return;
    context.beginPath();
    context.arc(...place(this.cursor), (this.pen * scale) / 2 + 4, 0, 2 * Math.PI);
    Object.assign(context, { strokeStyle: this.penDown ? "#ffce6b" : "#8fbcd9", lineWidth: 4 });
    context.stroke();
  }
}

function invite(context) {
  const { width, height } = context.canvas;
  Object.assign(context, { fillStyle: "#7f8f9a", textAlign: "center", textBaseline: "middle" });
  context.font = `${15 * SCREEN}px system-ui, sans-serif`;
  context.fillText("Draw here", width / 2, height / 2);
}

function centreOfMass({ width, height, data }) {
  let [mass, x, y] = [0, 0, 0];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const value = data[4 * (row * width + column)];
      mass += value;
      x += value * (column + 0.5);
      y += value * (row + 0.5);
    }
  }
  return mass ? { x: x / mass, y: y / mass } : { x: width / 2, y: height / 2 };
}
