// The table of exposures. Rows are created when they scroll into view, and the details of a row when it is opened, so
// that a page with thousands of exposures loads quickly.
const CHUNK = 60;
const STATUSES = { done: "✓ Done", failed: "✕ Failed", "no rate": "△ No rate", product: "○ Product only" };
const ALL_COLUMNS = [
  { key: "exposure", label: "Exposure" },
  { name: "pictures", label: "Rate, flags, 1/f" },
  { key: "status", label: "Status" },
  { key: "start", label: "Observed", text: day, second: time, title: "start of the exposure" },
  { key: "observation", label: "Observation", title: "program / observation" },
  { key: "roll", label: "Roll", number: withUnit("°", 4), title: "position angle of the telescope" },
  { key: "role", label: "Role" },
  { key: "dither", label: "Dither" },
  { key: "target", label: "Target" },
  { key: "detector", label: "Detector", sub: "instrument" },
  { key: "filter", label: "Filter", sub: "mask" },
  { key: "subarray", label: "Subarray", sub: "shape" },
  { key: "exptime", label: "Exp. time", number: seconds, title: "exposure time" },
  { key: "background", label: "Background", number: withUnit("DN/s"), title: "background of the rate" },
  { key: "read_noise", label: "Read noise", number: withUnit("DN"), title: "read noise measured in the exposure" },
  {
    key: "row_noise",
    label: "Row noise",
    number: withUnit("DN/s"),
    title: "scatter of the medians of the rows of an integration less the other integrations",
  },
  { key: "saturated_radius", label: "Sat. radius", number: withUnit("px"), title: "radius of the saturated core" },
  { key: "jump_rate", label: "Jump rate", number: withUnit("/s/cm²"), title: "jumps per second and cm²" },
  { key: "jump", label: "Jumps", number: percent, title: "fraction of pixels in the rate with a jump" },
  { key: "saturated", label: "Saturated", number: percent, title: "fraction of pixels in the rate that saturate" },
  { key: "unusable", label: "Unusable", number: percent, title: "fraction of pixels in the rate with DO_NOT_USE" },
  { key: "seconds", label: "Time", number: seconds, title: "processing time, including reading and writing" },
  { key: "memory", label: "Memory", number: bytes, title: "peak memory of the process" },
  { key: "finished", label: "Finished", text: day, second: time, title: "end of the reduction" },
].map((column) => ({ name: column.key, ...column }));
const HIDDEN_AT_FIRST = new Set(["subarray", "memory", "finished"]);
const SEARCHED = [
  "exposure",
  "status",
  "target",
  "instrument",
  "detector",
  "filter",
  "mask",
  "subarray",
  "observation",
  "role",
  "error",
];
const body = document.querySelector("#exposures > tbody");
const isEmpty = (value) => value === null || value === undefined || value === "";
// columns without any value are not offered
const COLUMNS = ALL_COLUMNS.filter(({ key }) => !key || rows.some((row) => !isEmpty(row[key])));
const hiddenColumns = new Set(HIDDEN_AT_FIRST);
const slowest = Math.max(0, ...rows.map((row) => row.seconds ?? 0));
const open = new Set();
const details = new Map();
let sorting = { key: COLUMNS.some(({ key }) => key === "start") ? "start" : "exposure", direction: 1 };
let shown = [];
let made = 0;

function columnsShown() {
  return COLUMNS.filter(({ name }) => !hiddenColumns.has(name));
}
function detailOf(row) {
  if (!details.has(row.id)) details.set(row.id, readBlock("exposure-" + row.id) ?? {});
  return details.get(row.id);
}

// --- rows ------------------------------------------------------------------------------------------------------------
function makeRow(row) {
  const line = make("tr", { class: "row" });
  line.dataset.id = row.id;
  for (const column of columnsShown()) line.append(makeCell(row, column));
  line.addEventListener("click", (event) => {
    if (event.target.closest("button") || !String(getSelection())) toggle(line, row);
  });
  const lines = [line];
  if (open.has(row.id)) {
    setOpen(line, true);
    lines.push(makeDetail(row, columnsShown().length));
  }
  return lines;
}
function makeCell(row, column) {
  const { key } = column;
  if (key === "exposure") {
    const turn = make("span", { class: "turn", "aria-hidden": "true" }, "▶");
    const button = make(
      "button",
      { type: "button", class: "name", "aria-expanded": "false" },
      turn,
      make("span", {}, ...breakable(row.exposure)),
    );
    const why = row.error ? make("p", { class: "why" }, row.error) : null;
    return make("td", { class: "first" }, button, why);
  }
  if (!key) return make("td", {}, makeThumbs(row));
  if (key === "status") {
    return make("td", { class: "status status-" + row.status.replace(" ", "-") }, STATUSES[row.status] ?? row.status);
  }
  const value = row[key];
  if (column.number) {
    const text = isEmpty(value) ? "–" : column.number(value);
    const bars = key === "seconds" && !isEmpty(value) ? make("div", { class: "track" }, bar(value / slowest)) : null;
    const cell = make("td", { class: bars ? "number time" : "number" }, text, bars);
    markOutlier(cell, row, column);
    return cell;
  }
  const second = column.sub ? row[column.sub] : column.second ? column.second(value ?? "") : "";
  return make(
    "td",
    { class: "text" },
    column.text ? column.text(value ?? "") : (value ?? ""),
    second ? make("div", { class: "sub" }, second) : null,
  );
}
function makeThumbs(row) {
  const { thumbs = {} } = detailOf(row);
  return make(
    "div",
    { class: "thumbs" },
    ...["rate", "flags", "noise"].map((kind) => {
      if (!thumbs[kind]) return make("div", { class: "none" });
      return make("img", { src: thumbs[kind], alt: kind + " of " + row.exposure, width: "44", height: "44" });
    }),
  );
}
function toggle(line, row) {
  if (open.delete(row.id)) {
    setOpen(line, false);
    line.nextElementSibling.remove();
  } else {
    open.add(row.id);
    setOpen(line, true);
    line.after(makeDetail(row, columnsShown().length));
    history.replaceState(null, "", "#" + encodeURIComponent(row.exposure));
  }
}
function setOpen(line, is) {
  line.classList.toggle("open", is);
  line.querySelector(".name").setAttribute("aria-expanded", String(is));
}
function compare(a, b) {
  const [x, y] = [a[sorting.key], b[sorting.key]];
  if (isEmpty(x) || isEmpty(y)) return isEmpty(x) - isEmpty(y); // unknown values are last in both directions
  return (
    sorting.direction * (typeof x === "number" ? x - y : order.compare(x, y)) || order.compare(a.exposure, b.exposure)
  );
}
function showMore() {
  body.append(...shown.slice(made, made + CHUNK).flatMap(makeRow));
  made = Math.min(shown.length, made + CHUNK);
  find("sentinel").hidden = made === shown.length;
}
function refresh() {
  const terms = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const status = document.querySelector("#statuses input:checked").value;
  const [detector, subarray] = [find("detector").value, find("subarray").value];
  const isOutliers = find("outliers").checked;
  shown = rows.filter(
    (row) =>
      (!status || row.status === status) &&
      (!detector || row.detector === detector) &&
      (!subarray || row.subarray === subarray) &&
      (!isOutliers || row.outliers?.length) &&
      terms.every((term) => row.searchText.includes(term)),
  );
  shown.sort(compare);
  body.replaceChildren();
  made = 0;
  showMore();
  find("empty").hidden = shown.length > 0;
  find("scroll").hidden = shown.length === 0;
  find("count").textContent =
    shown.length === rows.length
      ? counted(rows.length, "exposure")
      : shown.length + " of " + counted(rows.length, "exposure");
}

// --- outliers --------------------------------------------------------------------------------------------------------
/** The exposures that an exposure is compared with: the same detector, filter, mask and subarray. */
function setupOf(row) {
  return [row.detector, row.filter, row.mask, row.subarray].filter(Boolean).join(" ");
}
function explainOutlier(row, { key, label, number }) {
  const alike = rows.filter((other) => setupOf(other) === setupOf(row) && !isEmpty(other[key]));
  const median = medianOf(alike.map((other) => other[key]));
  return (
    `outlier: ${label.toLowerCase()} ${number(row[key])}; the median of the ${counted(alike.length, "exposure")} ` +
    `with ${setupOf(row)} is ${number(median)}, more than 5 σ away`
  );
}
function markOutlier(cell, row, column) {
  if (!row.outliers?.includes(column.key)) return;
  cell.classList.add("outlier");
  cell.title = explainOutlier(row, column);
  cell.prepend(make("span", { class: "mark", "aria-hidden": "true" }, "◆ "));
  cell.append(make("span", { class: "unseen" }, " " + cell.title));
}

// --- header, filters, columns ----------------------------------------------------------------------------------------
function makeHeader() {
  const header = document.querySelector("#exposures > thead > tr");
  header.replaceChildren();
  for (const column of columnsShown()) {
    const cell = make("th", {
      scope: "col",
      class: column.number ? "number" : column.key === "exposure" ? "first" : "",
    });
    header.append(cell);
    if (!column.key) {
      cell.append(make("span", { class: "plain" }, column.label));
      continue;
    }
    const arrow = make("span", { class: "arrow", "aria-hidden": "true" });
    const button = make("button", { type: "button" }, column.label, arrow);
    if (column.title) button.title = column.title;
    button.addEventListener("click", () => {
      const again = sorting.key === column.key;
      // sort numbers in descending order first
      sorting = { key: column.key, direction: again ? -sorting.direction : column.number ? -1 : 1 };
      markSorted();
      refresh();
    });
    cell.append(button);
    cell.dataset.key = column.key;
  }
  markSorted();
}
function markSorted() {
  for (const cell of document.querySelectorAll("#exposures > thead th[data-key]")) {
    const isSorted = cell.dataset.key === sorting.key;
    if (isSorted) cell.setAttribute("aria-sort", sorting.direction > 0 ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
    cell.querySelector(".arrow").textContent = isSorted ? (sorting.direction > 0 ? "▲" : "▼") : "";
  }
}
function makeColumnChooser() {
  const chooser = find("columns");
  const redo = () => {
    makeHeader();
    refresh();
  };
  const boxes = COLUMNS.filter(({ key }) => key !== "exposure").map(({ name, label }) => {
    const box = makeCheckbox(label, !hiddenColumns.has(name), (isShown) => {
      if (isShown) hiddenColumns.delete(name);
      else hiddenColumns.add(name);
      redo();
    });
    box.dataset.column = name;
    return box;
  });
  const set = (hidden) => () => {
    hiddenColumns.clear();
    for (const name of hidden) hiddenColumns.add(name);
    for (const box of boxes) box.firstElementChild.checked = !hiddenColumns.has(box.dataset.column);
    redo();
  };
  chooser.append(
    make(
      "div",
      { class: "menu" },
      make("div", { class: "group" }, makeButton("All", set([])), makeButton("Usual", set(HIDDEN_AT_FIRST))),
      ...boxes,
    ),
  );
  addEventListener("pointerdown", (event) => event.target.closest?.("#columns") || (chooser.open = false));
  chooser.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    chooser.open = false;
    chooser.querySelector("summary").focus();
  });
}
function filterState() {
  return JSON.stringify([...new FormData(find("filters"))]);
}
function makeFilters() {
  const counts = new Map();
  for (const row of rows) counts.set(row.status, (counts.get(row.status) ?? 0) + 1);
  const choices = [["", "All"], ...Object.entries(STATUSES).filter(([status]) => counts.has(status))];
  for (const [status, label] of choices) {
    const radio = make("input", { type: "radio", name: "status", value: status, defaultChecked: status === "" });
    const text = make("span", {}, label + " " + (status ? counts.get(status) : rows.length));
    find("statuses").append(make("label", {}, radio, text));
  }
  for (const key of ["detector", "subarray"]) {
    const values = [...new Set(rows.map((row) => row[key]))].filter(Boolean).sort(order.compare);
    find(key).append(make("option", { value: "" }, "All"), ...values.map((value) => make("option", { value }, value)));
    find(key).closest("label").hidden = values.length < 2;
  }
  const nOutliers = rows.filter((row) => row.outliers?.length).length;
  find("outliers").closest("label").hidden = !nOutliers;
  find("outliers").nextElementSibling.textContent = "Outliers only (" + nOutliers + ")";
  find("statuses").closest("fieldset").hidden = counts.size < 2;
  find("filters").hidden = rows.length < 2;
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  let last = filterState();
  const filter = () => {
    // a field that loses the focus reports a change that its input has reported before
    if (filterState() !== last) refresh();
    last = filterState();
  };
  for (const kind of ["input", "change"]) find("filters").addEventListener(kind, filter);
  find("filters").addEventListener("reset", () => (last = ""));
  find("reset").addEventListener("click", () => {
    find("filters").reset();
    refresh();
    find("search").focus();
  });
  for (const row of rows)
    row.searchText = SEARCHED.map((key) => row[key] ?? "")
      .join(" ")
      .toLowerCase();
}
/** Show an exposure in the table and open it, whatever the filters are; return its details. */
function openExposure(row) {
  open.add(row.id);
  if (!shown.includes(row)) {
    find("filters").reset();
    refresh();
  }
  while (shown.indexOf(row) >= made) showMore();
  const line = body.querySelector(`tr.row[data-id="${row.id}"]`);
  if (!line.classList.contains("open")) {
    setOpen(line, true);
    line.after(makeDetail(row, columnsShown().length));
  }
  line.scrollIntoView();
  line.querySelector(".name").focus({ preventScroll: true });
  history.replaceState(null, "", "#" + encodeURIComponent(row.exposure));
  return line.nextElementSibling;
}
