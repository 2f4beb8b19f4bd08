// Trends over a batch: the numbers of the exposures against their start, or in order where the start is unknown.
const TREND_NAMES = {
  background: "Background",
  read_noise: "Read noise",
  row_noise: "Row noise",
  saturated_radius: "Saturated radius",
  jump_rate: "Jump rate",
};
const TREND_UNITS = {
  background: "DN/s",
  read_noise: "DN",
  row_noise: "DN/s",
  saturated_radius: "pixels",
  jump_rate: "/s/cm²",
};

function makeTrends() {
  const place = find("trends");
  const keys = Object.keys(TREND_NAMES).filter((key) => rows.filter((row) => !isEmpty(row[key])).length > 1);
  place.hidden = !keys.length;
  let isFilled = false;
  place.addEventListener("toggle", () => {
    if (!place.open || isFilled) return;
    isFilled = true;
    place.append(...fillTrends(keys));
  });
}
/** The charts, and a choice of a detector and filter where there are several. */
function fillTrends(keys) {
  const known = rows.filter((row) => keys.some((key) => !isEmpty(row[key])));
  const names = [...new Set(known.map(nameOfSetting))].sort(order.compare);
  const place = make("div", {});
  const show = (name) =>
    place.replaceChildren(
      ...chartTrends(
        keys,
        known.filter((row) => !name || nameOfSetting(row) === name),
        names,
      ),
    );
  show("");
  const choices = [["", "all detectors and filters"], ...names.map((name) => [name, name])];
  return [
    names.length > 1 ? make("div", { class: "controls" }, makeSelect("of", choices, "", show)) : null,
    place,
  ].filter(Boolean);
}
function nameOfSetting(row) {
  return [row.detector, row.filter].filter(Boolean).join(" ");
}
function chartTrends(keys, members, names) {
  const isTimed = members.every((row) => !isEmpty(row.start) && Number.isFinite(startOf(row)));
  members.sort((a, b) => (isTimed ? startOf(a) - startOf(b) : 0) || order.compare(a.exposure, b.exposure));
  const x = members.map((row, at) => (isTimed ? startOf(row) : at + 1));
  const colourAt = (at) => names.indexOf(nameOfSetting(members[at])) % 8;
  const columns = new Map(ALL_COLUMNS.map((column) => [column.key, column]));
  const charts = keys.map((key) => {
    const { number } = columns.get(key);
    const label = TREND_NAMES[key];
    const y = members.map((row) => row[key] ?? null);
    const marks = new Set(members.flatMap((row, at) => (row.outliers?.includes(key) ? [at] : [])));
    const chart = makeChart({
      label: label + " of each exposure",
      x,
      xLabel: isTimed ? "start (UTC)" : "exposure in order of name",
      yLabel: TREND_UNITS[key],
      xTicks: isTimed ? timeTicks(x[0], x.at(-1)) : undefined,
      series: [{ kind: "points", y, marks }],
      colourAt,
      size: { width: 420, height: 160 },
      onPick: (at) => openExposure(members[at]),
      textAt: (at) =>
        members[at].exposure +
        ": " +
        (y[at] === null ? "no value" : number(y[at])) +
        (marks.has(at) ? ", outlier" : ""),
    });
    chart.dataset.trend = key;
    chart.prepend(make("figcaption", {}, make("strong", {}, label)));
    return chart;
  });
  const legend = makeLegend(names.map((name, at) => [name, at % 8]));
  legend.append(make("li", {}, make("span", { class: "swatch ring", "aria-hidden": "true" }), "outlier"));
  return [legend, make("div", { class: "charts three" }, ...charts)];
}
/** The start of an exposure in ms; times without a zone are UTC. */
function startOf(row) {
  return Date.parse(/Z|[+-]\d\d:?\d\d$/.test(row.start) ? row.start : row.start + "Z");
}
