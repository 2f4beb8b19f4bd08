// Charts as SVG: lines, points with error bars, histograms. A click or Enter picks a point.
const CHART = { width: 520, height: 170, left: 58, right: 12, top: 10, bottom: 36 };

/** The width of a chart in a column of the window, so that its text has about the size of the page's. */
function chartWidth() {
  return innerWidth < 1200 ? 400 : 560;
}
/** Round numbers between two limits, about n of them. */
function ticks(low, high, n = 4) {
  const rough = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.8);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + 1e-9 * step; at += step) found.push(at);
  return found;
}
/** Ticks of a time axis, in ms: [place, label] pairs. */
function timeTicks(low, high) {
  const text = (at) => new Date(at).toISOString().slice(0, 16).replace("T", " ");
  return [[low, text(low)], ...(high > low ? [[high, text(high)]] : [])];
}
/** The limits of numbers with room beside them. */
function padded(numbers, part = 0.06) {
  let [low, high] = [Infinity, -Infinity];
  for (const number of numbers)
    if (Number.isFinite(number)) [low, high] = [Math.min(low, number), Math.max(high, number)];
  if (!(low <= high)) return [0, 1];
  const room = (high - low) * part || Math.abs(low) * part || 0.5;
  return [low - room, high + room];
}

/**
 * Draw a chart.
 *
 * series: [{name, y, error, kind: "line", "points" or "steps", colour: number of a class, marks: Set of indices}];
 * values that are null or NaN are left out. textAt(index) is shown beside the chart and as the title of a point.
 */
function makeChart({
  label,
  x,
  series,
  xLabel,
  yLabel,
  xTicks,
  yTicks,
  yLimits,
  size = {},
  textAt,
  onPick,
  hint,
  colourAt,
}) {
  const { width, height, left, right, top, bottom } = { ...CHART, ...size };
  const [x0, x1] = padded(x, series.some((one) => one.kind === "points") ? 0.03 : 0);
  const all = series.flatMap(({ y, error }) =>
    y.flatMap((value, at) =>
      value === null || !Number.isFinite(value) ? [] : error?.[at] ? [value - error[at], value + error[at]] : [value],
    ),
  );
  const [y0, y1] = yLimits ?? padded(all);
  const toX = (value) => left + ((width - left - right) * (value - x0)) / (x1 - x0);
  const toY = (value) => height - bottom - ((height - top - bottom) * (value - y0)) / (y1 - y0);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  for (const [at, text] of yTicks ?? ticks(y0, y1).map((value) => [value, digits(value, 4)])) {
    svg.append(
      draw("line", { class: "grid", x1: left, x2: width - right, y1: toY(at), y2: toY(at) }),
      draw("text", { x: left - 6, y: toY(at) + 4, "text-anchor": "end" }, text),
    );
  }
  svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  const along = xTicks ?? ticks(x0, x1, 6).map((value) => [value, digits(value, 6)]);
  along.forEach(([at, text], index) => {
    const isWide = text.length > 8;
    const anchor = isWide ? (index ? "end" : "start") : "middle";
    svg.append(
      draw("line", { class: "axis", x1: toX(at), x2: toX(at), y1: height - bottom, y2: height - bottom + 4 }),
      draw("text", { x: toX(at), y: height - bottom + 16, "text-anchor": anchor }, text),
    );
  });
  svg.append(draw("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xLabel));
  if (yLabel)
    svg.append(
      draw(
        "text",
        {
          class: "ylabel",
          transform: `translate(11 ${(top + height - bottom) / 2}) rotate(-90)`,
          "text-anchor": "middle",
        },
        yLabel,
      ),
    );
  for (const one of series) svg.append(drawSeries(one, x, toX, toY, colourAt));
  return addPicking(svg, { label, x, series, toX, textAt, onPick, hint, top, foot: height - bottom });
}
function drawSeries({ y, error, kind = "line", colour = 0, marks = new Set() }, x, toX, toY, colourAt) {
  const group = draw("g", { class: `series series-${colour} ${kind}` });
  const isKnown = (at) => y[at] !== null && Number.isFinite(y[at]);
  if (kind === "points") {
    for (let at = 0; at < x.length; at++) {
      if (!isKnown(at)) continue;
      const [cx, cy] = [toX(x[at]).toFixed(1), toY(y[at]).toFixed(1)];
      if (error?.[at]) {
        group.append(
          draw("line", { class: "error", x1: cx, x2: cx, y1: toY(y[at] - error[at]), y2: toY(y[at] + error[at]) }),
        );
      }
      const own = colourAt ? ` series-${colourAt(at)}` : "";
      const mark = { class: "point" + own + (marks.has(at) ? " marked" : ""), cx, cy, r: marks.has(at) ? 5 : 3 };
      const dot = draw("circle", mark);
      dot.dataset.at = at;
      group.append(dot);
    }
    return group;
  }
  let path = "";
  for (let at = 0; at < y.length; at++) {
    if (!isKnown(at)) continue;
    const start = at === 0 || !isKnown(at - 1) ? "M" : "L";
    if (kind === "steps")
      path += `${start}${toX(x[at]).toFixed(1)} ${toY(y[at]).toFixed(1)}H${toX(x[at + 1]).toFixed(1)}`;
    else path += `${start}${toX(x[at]).toFixed(1)} ${toY(y[at]).toFixed(1)}`;
  }
  group.append(draw("path", { d: path || "M0 0" }));
  return group;
}
/** Let the pointer and the arrow keys choose the nearest point; a click or Enter picks it. */
function addPicking(svg, { label, x, series, toX, textAt, onPick, hint = "", top, foot }) {
  const figure = make("figure", { class: "chart-frame" }, svg);
  if (!textAt) return figure;
  const text = make("p", { class: "chart-text quiet" }, hint);
  figure.append(text);
  const known = x.map((_, at) => at).filter((at) => at < Math.max(...series.map(({ y }) => y.length)));
  const line = draw("line", { class: "pointer", y1: top, y2: foot, x1: -9, x2: -9 });
  const title = draw("title", {});
  svg.append(line, draw("rect", { class: "hit", x: 0, y: 0, width: "100%", height: "100%" }, title));
  Object.assign(svg, { tabIndex: 0 });
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", label + ". Arrow keys choose a point" + (onPick ? ", Enter opens it." : "."));
  if (onPick) svg.classList.add("picks");
  let chosen = null;
  const choose = (at) => {
    chosen = at;
    const words = at === null ? hint : textAt(at);
    text.textContent = title.textContent = words;
    const place = at === null ? -9 : toX(x[at]).toFixed(1);
    line.setAttribute("x1", place);
    line.setAttribute("x2", place);
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const [px, py] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const dots = [...svg.querySelectorAll("circle.point")];
    if (!dots.length)
      return known.reduce((best, at) => (Math.abs(toX(x[at]) - px) < Math.abs(toX(x[best]) - px) ? at : best));
    const far = (dot) => Math.hypot(dot.getAttribute("cx") - px, 0.3 * (dot.getAttribute("cy") - py));
    return Number(dots.reduce((best, dot) => (far(dot) < far(best) ? dot : best)).dataset.at);
  };
  svg.addEventListener("pointermove", (event) => choose(nearest(event)));
  svg.addEventListener("pointerleave", () => choose(null));
  svg.addEventListener("click", (event) => {
    choose(nearest(event));
    onPick?.(chosen);
  });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) choose(known[Math.max(0, Math.min(known.length - 1, known.indexOf(chosen) + step))]);
    else if (event.key === "Enter" && chosen !== null) onPick?.(chosen);
    else return;
    event.preventDefault();
  });
  return figure;
}
/** The names of lines with their colours; a checkbox where a line can be switched off. */
function makeLegend(names, onChange) {
  return make(
    "ul",
    { class: "legend quiet" },
    ...names.map(([name, colour, isOn = true], index) => {
      const swatch = make("span", { class: `swatch fill-${colour}`, "aria-hidden": "true" });
      const parts = onChange ? [makeCheckbox([swatch, name], isOn, (is) => onChange(index, is))] : [swatch, name];
      return make("li", {}, ...parts);
    }),
  );
}
