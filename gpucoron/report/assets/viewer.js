// Images on canvas. All panels of a view show the same region and mark the same pixel. Pixels are counted from zero,
// the first row is at the bottom.
const MOST_ZOOM = 200;
const WHEEL_STEP = 1.25;
/** px that the pointer may move during a click */
const CLICK = 4;
/** Whether the pointer has moved since the page was scrolled: the wheel then zooms, else the page scrolls on. */
const pointer = { at: "", isMoved: false };
document.addEventListener("scroll", () => (pointer.isMoved = false), { capture: true, passive: true });
document.addEventListener(
  "pointermove",
  ({ clientX, clientY }) => {
    // after a scroll, browsers report a move to where the pointer is
    if (pointer.at !== clientX + "," + clientY) pointer.isMoved = true;
    pointer.at = clientX + "," + clientY;
  },
  { capture: true, passive: true },
);

/** The region that linked panels show, the pixel under the cursor and the marked pixel. */
class View {
  constructor(w, h) {
    Object.assign(this, { w, h, zoom: 1, x: w / 2, y: h / 2, cursor: null, marked: null });
    this.listeners = new Set();
    this.tell = onNextFrame(() => this.listeners.forEach((listener) => listener()));
  }
  show({ x = this.x, y = this.y, zoom = this.zoom }) {
    this.zoom = Math.max(1, Math.min(MOST_ZOOM, zoom));
    const clamp = (at, size) => Math.max(size / 2 / this.zoom, Math.min(size - size / 2 / this.zoom, at));
    this.x = clamp(x, this.w);
    this.y = clamp(y, this.h);
    this.tell();
  }
  /** Zoom so that a point keeps its place. */
  zoomAbout(factor, x = this.x, y = this.y) {
    const zoom = Math.max(1, Math.min(MOST_ZOOM, this.zoom * factor));
    const ratio = this.zoom / zoom;
    this.show({ zoom, x: x + (this.x - x) * ratio, y: y + (this.y - y) * ratio });
  }
  fit() {
    this.show({ x: this.w / 2, y: this.h / 2, zoom: 1 });
  }
  /** Show a square region around a point. */
  showAround(x, y, size) {
    this.show({ x, y, zoom: Math.max(this.w, this.h) / size });
  }
  pointAt(cursor) {
    this.cursor = cursor && this.clip(cursor);
    this.tell();
  }
  mark(pixel) {
    this.marked = pixel && this.clip(pixel);
    this.tell();
  }
  clip([x, y]) {
    return [Math.max(0, Math.min(this.w - 1, x)), Math.max(0, Math.min(this.h - 1, y))];
  }
  /** The region that is seen: first and last column and row, [x0, x1, y0, y1), in pixels of the array. */
  region() {
    const [halfX, halfY] = [this.w / 2 / this.zoom, this.h / 2 / this.zoom];
    return [
      Math.max(0, Math.floor(this.x - halfX)),
      Math.min(this.w, Math.ceil(this.x + halfX)),
      Math.max(0, Math.floor(this.y - halfY)),
      Math.min(this.h, Math.ceil(this.y + halfY)),
    ];
  }
}

/** One image on canvas, with its title and colour bar. */
class Panel {
  constructor(view, { key, title, note = "", image, scale = null, flags = null, isFlags = false, onMark = () => {} }) {
    Object.assign(this, { view, key, title, image, scale, flags, isFlags, onMark });
    this.canvas = make("canvas", {
      tabindex: "0",
      role: "img",
      "aria-label":
        title + ". Plus and minus zoom, arrows move, 0 fits; Shift and arrows move the cursor, Enter marks the pixel.",
    });
    this.canvas.dataset.panel = key;
    this.note = make("span", { class: "quiet" }, note);
    this.caption = make("figcaption", {}, make("strong", {}, title), this.note);
    this.element = make("figure", { class: "image" }, this.caption, make("div", { class: "frame" }, this.canvas));
    this.element.dataset.panel = key;
    this.element.append(
      scale
        ? makeColourBar(scale, image.unit)
        : make("p", { class: "quiet below" }, "A pixel with several flags has the colour of the rarest."),
    );
    this.picture = make("canvas");
    this.repaint = onNextFrame(() => this.paint());
    this.redraw = onNextFrame(() => this.show());
    scale?.listeners.add(this.repaint);
    flags?.listeners.add(this.repaint);
    view.listeners.add(this.redraw);
    this.watch();
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
    this.repaint();
  }
  /** Show another image of the same field. */
  use(image) {
    this.image = image;
    this.repaint();
  }
  paint() {
    const source = this.isFlags ? this.flags.flags : this.image;
    Object.assign(this.picture, { width: source.w, height: source.h });
    const context = this.picture.getContext("2d");
    const pixels = context.createImageData(source.w, source.h);
    if (!this.isFlags) this.scale.paint(this.image, pixels.data);
    const fits = this.flags && this.flags.flags.w === source.w && this.flags.flags.h === source.h;
    if (this.isFlags || (fits && this.flags.isOverImages)) this.flags.paint(pixels.data, this.isFlags);
    context.putImageData(pixels, 0, 0);
    this.show();
  }
  /** px of the window per pixel of the array, and where the view's centre lies. */
  geometry() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const pixel = Math.min(width / this.view.w, height / this.view.h) * this.view.zoom;
    return { width, height, pixel, left: width / 2 - this.view.x * pixel, bottom: height / 2 + this.view.y * pixel };
  }
  show() {
    const { width, height, pixel, left, bottom } = this.geometry();
    if (!width || !this.picture.width) return;
    const ratio = devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const size = this.picture;
    const binning = this.binning();
    context.imageSmoothingEnabled = pixel * binning * ratio < 1;
    const shown = [size.width * binning * pixel, size.height * binning * pixel];
    context.drawImage(size, left, bottom - shown[1], ...shown);
    if (this.view.cursor) this.outline(context, this.view.cursor, ["#ffffff"]);
    if (this.view.marked) this.outline(context, this.view.marked, ["#000000", "#00e5ff"]);
  }
  binning() {
    return (this.isFlags ? this.flags.flags : this.image).binning ?? 1;
  }
  outline(context, [x, y], colours) {
    const { pixel, left, bottom } = this.geometry();
    const size = Math.max(pixel, 5);
    const middle = [left + (x + 0.5) * pixel, bottom - (y + 0.5) * pixel];
    colours.forEach((colour, index) => {
      const edge = size / 2 + 1 + (colours.length - 1 - index);
      context.lineWidth = 1;
      context.strokeStyle = colour;
      context.strokeRect(middle[0] - edge, middle[1] - edge, 2 * edge, 2 * edge);
    });
  }
  /** The pixel of the array under the pointer; null beside the array. */
  pixelAt(event) {
    const point = this.pointAt(event);
    const [x, y] = point.map(Math.floor);
    return x < 0 || y < 0 || x >= this.view.w || y >= this.view.h ? null : [x, y];
  }
  pointAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const { pixel, left, bottom } = this.geometry();
    return [(event.clientX - box.left - left) / pixel, (bottom - (event.clientY - box.top)) / pixel];
  }
  watch() {
    const { canvas, view } = this;
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      held = { at: [event.clientX, event.clientY], x: view.x, y: view.y, isDrag: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (held) {
        const [dx, dy] = [event.clientX - held.at[0], event.clientY - held.at[1]];
        held.isDrag ||= Math.hypot(dx, dy) > CLICK;
        const { pixel } = this.geometry();
        if (held.isDrag) view.show({ x: held.x - dx / pixel, y: held.y + dy / pixel });
      }
      canvas.classList.toggle("held", Boolean(held?.isDrag));
      view.pointAt(this.pixelAt(event));
    });
    canvas.addEventListener("pointerup", (event) => {
      if (held && !held.isDrag) this.markPixel(this.pixelAt(event));
      held = null;
      canvas.classList.remove("held");
    });
    canvas.addEventListener("pointercancel", () => (held = null));
    canvas.addEventListener("pointerleave", () => held || view.pointAt(null));
    canvas.addEventListener("dblclick", () => view.fit());
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!pointer.isMoved || (event.deltaY > 0 && view.zoom === 1)) return;
        event.preventDefault();
        view.zoomAbout(WHEEL_STEP ** -Math.sign(event.deltaY), ...this.pointAt(event));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => this.press(event));
  }
  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { view } = this;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const middle = [Math.floor(view.x), Math.floor(view.y)];
    if (step && event.shiftKey) {
      const [x, y] = view.cursor ?? middle;
      view.pointAt([x + step[0], y + step[1]]);
    } else if (step) {
      const part = 0.1 / view.zoom;
      view.show({ x: view.x + step[0] * part * view.w, y: view.y + step[1] * part * view.h });
    } else if (event.key === "+" || event.key === "=") view.zoomAbout(2);
    else if (event.key === "-") view.zoomAbout(0.5);
    else if (event.key === "0" || event.key === "Home") view.fit();
    else if (event.key === "Enter") this.markPixel(view.cursor ?? middle);
    else return;
    event.preventDefault();
  }
  markPixel(pixel) {
    if (!pixel) return;
    this.view.mark(pixel);
    this.onMark(pixel, this);
  }
  /** The index of a pixel of the array in the image's values. */
  indexOf([x, y]) {
    const { w, h, binning = 1 } = this.isFlags ? this.flags.flags : this.image;
    const [column, row] = [Math.floor(x / binning), Math.floor(y / binning)];
    return column < w && row < h ? row * w + column : -1;
  }
  /** What the readout says about a pixel. */
  describe(pixel) {
    const at = this.indexOf(pixel);
    if (at < 0) return "";
    if (this.isFlags) return "flags: " + (this.flags.namesAt(at).join(", ") || "none");
    const value = this.image.values[at];
    return (
      this.title.toLowerCase() + ": " + (Number.isNaN(value) ? "no value" : digits(value, 4) + " " + this.image.unit)
    );
  }
}

/** A colour bar with numbers, which follows its scale. */
function makeColourBar(scale, unit) {
  const strip = make("canvas", { width: N_COLOURS, height: 1, "aria-hidden": "true" });
  const labels = make("div", { class: "marks" });
  const element = make("div", { class: "colourbar" }, strip, labels);
  const update = () => {
    const context = strip.getContext("2d");
    const pixels = context.createImageData(N_COLOURS, 1);
    const colours = coloursOf(scale.colours);
    for (let at = 0; at < N_COLOURS; at++) {
      pixels.data.set([colours[3 * at], colours[3 * at + 1], colours[3 * at + 2], 255], 4 * at);
    }
    context.putImageData(pixels, 0, 0);
    const { value } = scale.functions();
    labels.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((share) => make("span", {}, digits(value(share)))));
    labels.append(make("span", { class: "unit" }, unit));
  };
  scale.listeners.add(update);
  update();
  return element;
}
