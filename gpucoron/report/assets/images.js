// The images of an exposure or of a quick-look: panels with their controls, profiles and histogram.

/**
 * Show images with linked panels.
 *
 * panels: [{key, title, note, image, scale}], with scale "rate" or "removed"; images of one scale share their colours.
 * isDifference: whether the images are differences, which get colours on both sides of zero.
 */
function makeImageSet({ panels, flags = null, view = null, isDifference = false, onMark, describePlace = placeOf }) {
  const first = panels[0]?.image ?? flags;
  view ??= new View(first.w * first.binning, first.h * first.binning);
  const choice = flags && new FlagChoice(flags);
  const scales = {};
  for (const kind of ["rate", "removed"]) {
    const images = panels.filter((panel) => panel.scale === kind).map((panel) => panel.image);
    if (!images.length) continue;
    const isSigned = isDifference || kind === "removed";
    scales[kind] = new Scale(images, isSigned ? { stretch: "linear", colours: "diverging", isSymmetric: true } : {});
  }
  const made = panels.map((panel) => new Panel(view, { ...panel, scale: scales[panel.scale], flags: choice, onMark }));
  if (choice)
    made.splice(1, 0, new Panel(view, { key: "flags", title: "Flags", flags: choice, isFlags: true, onMark }));
  const grid = make("div", { class: "images" }, ...made.map((panel) => panel.element));
  for (const panel of made) panel.canvas.style.aspectRatio = view.w + " / " + view.h;
  const describe = (pixel) =>
    [describePlace(pixel), ...made.map((panel) => panel.describe(pixel))].filter(Boolean).join(" · ");
  const names = { rate: panels.find((panel) => panel.scale === "rate")?.title, removed: "1/f noise removed" };
  const { element: shows, showPanels } = makePanelControls(made, grid);
  const element = make(
    "div",
    { class: "image-set" },
    make("div", { class: "controls" }, makeZoom(view), shows),
    make(
      "div",
      { class: "controls" },
      ...Object.entries(scales).map(([kind, scale]) => makeScaleControls(names[kind], scale)),
    ),
    choice && choice.flags.names.length ? make("div", { class: "controls" }, makeFlagControls(choice)) : null,
    makeReadout(view, describe, onMark ? undefined : "a click marks a pixel"),
    grid,
  );
  return { element, view, choice, scales, panels: made, describe, showPanels };
}
function placeOf([x, y]) {
  return "x " + x + ", y " + y;
}
/** The place of a pixel of an exposure: zero-based in the array, one-based on the detector where that is known. */
function placeIn(row) {
  const { corner } = row;
  if (!Array.isArray(corner)) return placeOf;
  return ([x, y]) => placeOf([x, y]) + " (detector " + (corner[0] + x) + ", " + (corner[1] + y) + ")";
}
/** Whether a pixel counts in profiles: neither DO_NOT_USE nor a reference pixel. */
function usableBy(flags) {
  const unusable = ["DO_NOT_USE", "REFERENCE_PIXEL"].map((name) => flags?.names.indexOf(name) ?? -1);
  const mask = unusable.reduce((bits, bit) => (bit < 0 ? bits : bits | (1 << bit)), 0);
  return (at) => !mask || !(flags.bits[at] & mask);
}

/** Charts of the median of each row and of each column; lines are [name, image] pairs. */
function makeProfiles(view, lines, flags) {
  const colours = { rate: 0, after: 0, before: 1, removed: 2 };
  const isUsable = usableBy(flags);
  const isOn = lines.map(([key]) => key !== "removed");
  let isPart = false;
  const charts = make("div", { class: "charts two" });
  const update = () => {
    const shown = lines.filter((_, index) => isOn[index]);
    charts.replaceChildren(
      ...["row", "column"].map((direction) => makeProfile(view, shown, direction, isUsable, isPart, colours)),
    );
  };
  const region = makeSelect(
    "of",
    [
      ["whole", "the whole image"],
      ["part", "the region in view"],
    ],
    "whole",
    (value) => {
      isPart = value === "part";
      update();
    },
  );
  let seen = "";
  view.listeners.add(() => {
    const now = view.region().join();
    if (isPart && now !== seen && charts.isConnected) update();
    seen = now;
  });
  update();
  const legend = makeLegend(
    lines.map(([key, , name], index) => [name.toLowerCase(), colours[key], isOn[index]]),
    (index, is) => {
      isOn[index] = is;
      update();
    },
  );
  const profiles = section(
    "Median of each row and of each column",
    make("div", { class: "controls" }, region, legend),
    charts,
    make("p", { class: "quiet" }, "Pixels with DO_NOT_USE and reference pixels are left out."),
  );
  profiles.className = "wide profiles";
  profiles.dataset.part = "profiles";
  return profiles;
}
function makeProfile(view, lines, direction, isUsable, isPart, colours) {
  const whole = [0, view.w, 0, view.h];
  const region = isPart ? view.region() : whole;
  const { binning, w, h } = lines[0]?.[1] ?? { binning: 1, w: view.w, h: view.h };
  const [x0, x1, y0, y1] = region.map((edge, index) =>
    Math.min(index < 2 ? w : h, index % 2 ? Math.ceil(edge / binning) : Math.floor(edge / binning)),
  );
  const from = direction === "row" ? y0 : x0;
  const series = lines.map(([key, image]) => ({
    colour: colours[key],
    y: profileOf(image, direction, isUsable, [x0, x1, y0, y1]),
  }));
  const x = Array.from({ length: direction === "row" ? y1 - y0 : x1 - x0 }, (_, index) => (from + index) * binning);
  return makeChart({
    label: "Median of each " + direction,
    x,
    series,
    size: { width: chartWidth() },
    xLabel: direction === "row" ? "row (y)" : "column (x)",
    yLabel: lines[0] ? "median (" + lines[0][1].unit + ")" : "median",
    textAt: (at) =>
      direction +
      " " +
      x[at] +
      ": " +
      lines
        .map(([, image, name], index) => name.toLowerCase() + " " + digits(series[index].y[at], 4) + " " + image.unit)
        .join(", "),
  });
}
const SUPERSCRIPTS = [..."⁰¹²³⁴⁵⁶⁷⁸⁹"];
/** The histogram of rate / ERR with a Gaussian of width 1 about its median. */
function makeHistogram(histogram) {
  if (!histogram) return null;
  const { edges, counts } = histogram;
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return null;
  let below = 0;
  const middle = edges.find((_, at) => (below += counts[at] ?? 0) >= total / 2) ?? 0;
  const width = edges[1] - edges[0];
  const centre = middle + width / 2;
  const logOf = (count) => (count > 0 ? Math.log10(count) : null);
  const gauss = edges
    .slice(0, -1)
    .map((edge) => (total * width * Math.exp(-0.5 * (edge + width / 2 - centre) ** 2)) / Math.sqrt(2 * Math.PI));
  const highest = Math.ceil(Math.log10(Math.max(...counts, ...gauss)) * 1.02);
  const steps = { name: "pixels", kind: "steps", colour: 0, y: counts.map(logOf) };
  const model = { name: "Gaussian", colour: 1, y: gauss.map((count) => (count < 0.3 ? null : Math.log10(count))) };
  const chart = makeChart({
    label: "Histogram of rate / ERR",
    x: edges,
    series: [steps, model],
    xLabel: "rate / ERR",
    yLabel: "pixels",
    yLimits: [Math.log10(0.5), highest],
    size: { width: chartWidth() },
    yTicks: Array.from({ length: highest + 1 }, (_, power) => [
      power,
      power < 3 ? String(10 ** power) : "10" + SUPERSCRIPTS[power],
    ]),
    textAt: (at) =>
      at < counts.length
        ? "rate / ERR from " +
          digits(edges[at]) +
          " to " +
          digits(edges[at + 1]) +
          ": " +
          counted(counts[at], "pixel") +
          "; Gaussian: " +
          digits(gauss[at], 3)
        : "",
  });
  const legend = makeLegend([
    ["pixels without DO_NOT_USE", 0],
    ["Gaussian of width 1 about the median", 1],
  ]);
  return section("Histogram of rate / ERR", legend, chart);
}

/** The images of an exposure, decoded; null where the page has none. */
async function decodeExposure(id) {
  const block = readBlock("images-" + id);
  if (!block) return null;
  return decodeAll(block);
}
async function decodeAll(block) {
  const images = {};
  if (block.rate) images.rate = await decodeImage(block.rate);
  if (block.flags) images.flags = await decodeFlags(block.flags);
  if (block.removed) images.removed = await decodeImage(block.removed);
  return images;
}
/** Panels of an exposure: rate, before the 1/f removal where it can be computed, and what was removed. */
function panelsOf({ rate, removed }) {
  const panels = [];
  const isSame = rate && removed && removed.unit === rate.unit && removed.w === rate.w && removed.h === rate.h;
  const binned = rate?.binning > 1 ? "average of " + rate.binning + " × " + rate.binning + " pixels" : "";
  if (rate) panels.push({ key: "rate", title: "Rate", note: binned, image: rate, scale: "rate" });
  if (isSame) panels.push({ key: "before", title: "Rate before 1/f", image: addImages(rate, removed), scale: "rate" });
  if (removed) panels.push({ key: "removed", title: "1/f removed", note: "mean", image: removed, scale: "removed" });
  return panels;
}
