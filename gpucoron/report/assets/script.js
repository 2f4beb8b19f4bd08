"use strict";
// The table of a report. All values from files are inserted as text, never as HTML. Rows are created when they scroll
// into view, and the details of a row when it is opened, so that a page with thousands of exposures loads quickly.
(() => {
  const CHUNK = 60;
  const STATUSES = { done: "✓ Done", failed: "✕ Failed", "no rate": "△ No rate", product: "○ Product only" };
  const ALL_COLUMNS = [
    { key: "exposure", label: "Exposure" },
    { label: "Rate, flags, 1/f" },
    { key: "status", label: "Status" },
    { key: "target", label: "Target" },
    { key: "detector", label: "Detector", sub: "instrument" },
    { key: "filter", label: "Filter", sub: "mask" },
    { key: "subarray", label: "Subarray", sub: "shape" },
    { key: "jump", label: "Jumps", number: percent, title: "fraction of pixels in the rate with a jump" },
    { key: "saturated", label: "Saturated", number: percent, title: "fraction of pixels in the rate that saturate" },
    { key: "unusable", label: "Unusable", number: percent, title: "fraction of pixels in the rate with DO_NOT_USE" },
    { key: "seconds", label: "Time", number: seconds, title: "including reading and writing" },
    { key: "memory", label: "Memory", number: bytes, title: "peak memory of the process" },
    { key: "finished", label: "Finished", text: day, second: time },
  ];
  const find = (id) => document.getElementById(id);
  const { rows, summary, notes } = JSON.parse(find("table").textContent);
  const body = document.querySelector("#exposures > tbody");
  // empty columns are not shown
  const COLUMNS = ALL_COLUMNS.filter(({ key }) => !key || rows.some((row) => row[key] !== null && row[key] !== ""));
  const slowest = Math.max(0, ...rows.map((row) => row.seconds ?? 0));
  const order = new Intl.Collator("en", { numeric: true });
  const open = new Set();
  const parsed = new Map();
  let sorting = { key: "exposure", direction: 1 };
  let shown = [];
  let made = 0;

  function percent(value) {
    const share = 100 * value;
    return share === 0 ? "0 %" : share < 0.001 ? "<0.001 %" : share.toFixed(share < 0.1 ? 3 : share < 10 ? 2 : 1) + " %";
  }
  function seconds(value) {
    if (value < 120) return value.toFixed(value < 9.995 ? 2 : 1) + " s";
    return Math.floor(value / 60) + " min " + Math.round(value % 60) + " s";
  }
  function bytes(value) {
    return value >= 1e9 ? (value / 1e9).toFixed(2) + " GB" : (value / 1e6).toFixed(value < 1e7 ? 1 : 0) + " MB";
  }
  function day(text) {
    return text.split("T")[0];
  }
  function time(text) {
    return /T(\d\d:\d\d)/.exec(text)?.[1] ?? "";
  }
  /** Allow line breaks after the underscores of a name. */
  function breakable(name) {
    return name.split("_").flatMap((part, index) => (index ? ["_", document.createElement("wbr"), part] : [part]));
  }
  function plain(value) {
    return typeof value === "string" ? value : JSON.stringify(value);
  }

  /** Create an element with properties and children; strings become text nodes. */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") element.className = value;
      else if (name in element && typeof value !== "string") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }
  function draw(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  function bar(share) {
    const element = make("div");
    element.style.width = Math.min(100, 100 * share) + "%";
    return element;
  }
  function detailOf(row) {
    if (!parsed.has(row.id)) parsed.set(row.id, JSON.parse(find("exposure-" + row.id).textContent));
    return parsed.get(row.id);
  }

  // --- the table -------------------------------------------------------------------------------------------------
  function makeRow(row) {
    const line = make("tr", { class: "row" });
    line.dataset.id = row.id;
    for (const column of COLUMNS) line.append(makeCell(row, column));
    line.addEventListener("click", (event) => {
      if (event.target.closest("button") || !String(getSelection())) toggle(line, row);
    });
    const lines = [line];
    if (open.has(row.id)) {
      setOpen(line, true);
      lines.push(makeDetail(row));
    }
    return lines;
  }
  function makeCell(row, column) {
    const { key } = column;
    if (key === "exposure") {
      const turn = make("span", { class: "turn", "aria-hidden": "true" }, "▶");
      const button = make("button", { type: "button", class: "name", "aria-expanded": "false" },
        turn, make("span", {}, ...breakable(row.exposure)));
      return make("td", {}, button, row.error ? make("p", { class: "why" }, row.error) : null);
    }
    if (!key) return make("td", {}, makeThumbs(row));
    if (key === "status") {
      return make("td", { class: "status status-" + row.status.replace(" ", "-") }, STATUSES[row.status] ?? row.status);
    }
    const value = row[key];
    if (column.number) {
      const text = value === null ? "–" : column.number(value);
      if (key !== "seconds" || value === null) return make("td", { class: "number" }, text);
      return make("td", { class: "number time" }, text, make("div", { class: "track" }, bar(value / slowest)));
    }
    const second = column.sub ? row[column.sub] : column.second ? column.second(value) : "";
    return make("td", { class: "text" }, column.text ? column.text(value) : value,
      second ? make("div", { class: "sub" }, second) : null);
  }
  function makeThumbs(row) {
    const { images } = detailOf(row);
    return make("div", { class: "thumbs" }, ...["rate", "flags", "noise"].map((kind) => {
      if (!images[kind]) return make("div", { class: "none" });
      return make("img", { src: images[kind], alt: kind + " of " + row.exposure, width: "44", height: "44" });
    }));
  }
  function toggle(line, row) {
    if (open.delete(row.id)) {
      setOpen(line, false);
      line.nextElementSibling.remove();
    } else {
      open.add(row.id);
      setOpen(line, true);
      line.after(makeDetail(row));
      history.replaceState(null, "", "#" + encodeURIComponent(row.exposure));
    }
  }
  function setOpen(line, is) {
    line.classList.toggle("open", is);
    line.querySelector(".name").setAttribute("aria-expanded", String(is));
  }
  function compare(a, b) {
    const [x, y] = [a[sorting.key], b[sorting.key]];
    const [noX, noY] = [x === null || x === "", y === null || y === ""];
    if (noX || noY) return noX - noY; // unknown values are last in both directions
    return sorting.direction * (typeof x === "number" ? x - y : order.compare(x, y));
  }
  function showMore() {
    const lines = shown.slice(made, made + CHUNK).flatMap(makeRow);
    body.append(...lines);
    made = Math.min(shown.length, made + CHUNK);
    find("sentinel").hidden = made === shown.length;
  }
  function refresh() {
    const terms = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = document.querySelector("#statuses input:checked").value;
    const [detector, subarray] = [find("detector").value, find("subarray").value];
    shown = rows.filter((row) =>
      (!status || row.status === status) && (!detector || row.detector === detector) &&
      (!subarray || row.subarray === subarray) && terms.every((term) => row.searchText.includes(term)));
    shown.sort(compare);
    body.replaceChildren();
    made = 0;
    showMore();
    find("empty").hidden = shown.length > 0;
    find("scroll").hidden = shown.length === 0;
    find("count").textContent = shown.length === rows.length
      ? rows.length + (rows.length === 1 ? " exposure" : " exposures")
      : shown.length + " of " + rows.length + " exposures";
  }
  function makeHeader() {
    const header = document.querySelector("#exposures > thead > tr");
    for (const column of COLUMNS) {
      const cell = make("th", { scope: "col", class: column.number ? "number" : "" });
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
    find("statuses").closest("fieldset").hidden = counts.size < 2;
    find("filters").hidden = rows.length < 2;
    find("filters").addEventListener("submit", (event) => event.preventDefault());
    find("filters").addEventListener("input", refresh);
    find("reset").addEventListener("click", () => {
      find("filters").reset();
      refresh();
      find("search").focus();
    });
    for (const row of rows) {
      const texts = ["exposure", "status", "target", "instrument", "detector", "filter", "mask", "subarray", "error"];
      row.searchText = texts.map((key) => row[key]).join(" ").toLowerCase();
    }
  }

  // --- a row's details -------------------------------------------------------------------------------------------
  function makeDetail(row) {
    const detail = detailOf(row);
    const panel = make("div", { class: "panel" });
    panel.append(...[
      makeFailure(detail.error), makePictures(row, detail), makeGroups(detail.groups), makeFlags(detail.flags),
      makeSteps(detail), makeParameters(detail.parameters), makeFacts(detail.facts),
    ].filter(Boolean));
    return make("tr", { class: "detail" }, make("td", { colspan: String(COLUMNS.length) }, panel));
  }
  function section(title, ...children) {
    return make("section", {}, make("h2", {}, title), ...children);
  }
  function makeFailure(error) {
    if (!error) return null;
    const failure = section(error.type || "Failed", make("p", {}, error.message || "no message"));
    failure.className = "failure wide";
    if (error.traceback) {
      failure.append(make("details", {}, make("summary", {}, "Traceback"), make("pre", { tabindex: "0" }, error.traceback)));
    }
    return failure;
  }
  function makePictures(row, detail) {
    if (!Object.keys(detail.images).length) return make("p", { class: "quiet wide" }, detail.note || "No pictures.");
    const digits = (value) => Number(value.toPrecision(3)).toString();
    const { images, rate_range: range, noise_limit: limit, noise_unit: unit, binning } = detail;
    const legend = make("ul", { class: "legend" },
      ...[["good", "good"], ["jump", "jump"], ["saturated", "saturated"], ["unusable", "do not use"]].map(
        ([kind, label]) => make("li", {}, make("span", { class: "swatch swatch-" + kind, "aria-hidden": "true" }), label)));
    const binned = binning > 1 ? ", " + binning + " × " + binning + " pixels averaged" : "";
    const captions = {
      rate: ["Rate", range ? digits(range[0]) + " to " + digits(range[1]) + " DN/s, asinh" + binned : ""],
      flags: ["Flags", legend],
      noise: ["1/f noise removed, mean", "±" + digits(limit) + " " + unit + ", blue is negative"],
    };
    const figures = Object.entries(captions).map(([kind, [title, text]]) => {
      const has = Boolean(images[kind]);
      const none = kind === "noise" ? "no 1/f noise was removed, or not recorded" : "no preview";
      const picture = has ? make("img", { src: images[kind], alt: title + " of " + row.exposure })
        : make("div", { class: "none" }, none);
      return make("figure", {}, picture, make("figcaption", {}, make("strong", {}, title), has ? text : null));
    });
    const pictures = make("div", { class: "pictures wide" }, ...figures);
    if (detail.note) pictures.append(make("p", { class: "quiet" }, detail.note));
    return pictures;
  }
  /** Draw the fraction of pixels with a jump or saturation in each group. */
  function makeGroups(groups) {
    const n = Math.max(groups.jump.length, groups.saturated.length);
    if (n < 1) return null;
    const [width, height, left, right, top, bottom] = [520, 170, 52, 10, 8, 34];
    const highest = Math.max(...groups.jump, ...groups.saturated, 1e-6);
    const power = 10 ** Math.floor(Math.log10(highest));
    const ceiling = [1, 2, 5, 10].map((factor) => factor * power).find((limit) => limit >= highest) ?? highest;
    const x = (group) => left + (width - left - right) * (n === 1 ? 0.5 : group / (n - 1));
    const y = (share) => height - bottom - (height - top - bottom) * (share / ceiling);
    const chart = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img" });
    chart.setAttribute("aria-label", "Fraction of pixels by group; at most " +
      percent(Math.max(...groups.jump, 0)) + " jumps and " + percent(Math.max(...groups.saturated, 0)) + " saturated");
    for (const share of [0, ceiling / 2, ceiling]) {
      chart.append(draw("line", { class: share ? "grid" : "axis", x1: left, x2: width - right, y1: y(share), y2: y(share) }));
      const label = Number((100 * share).toPrecision(3)) + " %";
      chart.append(draw("text", { x: left - 7, y: y(share) + 4, "text-anchor": "end" }, label));
    }
    const marks = n === 1 ? [0] : n === 2 ? [0, 1] : [0, Math.floor((n - 1) / 2), n - 1];
    for (const group of marks) {
      chart.append(draw("text", { x: x(group), y: height - bottom + 15, "text-anchor": "middle" }, String(group + 1)));
    }
    chart.append(draw("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, "group"));
    for (const kind of ["saturated", "jump"]) {
      const points = groups[kind].map((share, group) => x(group).toFixed(1) + "," + y(share).toFixed(1));
      chart.append(draw("polyline", { class: "line-" + kind, points: points.join(" ") }));
      if (n <= 40) {
        for (const point of points) {
          const [cx, cy] = point.split(",");
          chart.append(draw("circle", { class: "dot-" + kind, cx, cy, r: 2.5 }));
        }
      }
    }
    const step = (width - left - right) / Math.max(n - 1, 1);
    for (let group = 0; group < n; group++) {
      const parts = ["jump", "saturated"].filter((kind) => group in groups[kind]);
      const text = parts.map((kind) => kind + " " + percent(groups[kind][group])).join(", ");
      const area = { class: "hit", x: x(group) - step / 2, y: top, width: step, height: height - top - bottom };
      chart.append(draw("rect", area, draw("title", {}, "group " + (group + 1) + ": " + text)));
    }
    const legend = make("ul", { class: "legend quiet" }, ...[["jump", "jump"], ["saturated", "saturated"]].map(
      ([kind, label]) => make("li", {}, make("span", { class: "swatch dot-" + kind, "aria-hidden": "true" }), label)));
    return section("Flagged pixels by group", legend, chart);
  }
  function table(className, head, lines) {
    const header = make("tr", {}, ...head.map(([label, name = ""]) => make("th", { scope: "col", class: name }, label)));
    return make("table", { class: className }, make("thead", {}, header), make("tbody", {}, ...lines));
  }
  function makeFlags(flags) {
    if (!flags.length) return null;
    const share = (value) => make("td", { class: "number" }, value === null ? "–" : percent(value));
    const isCounted = flags.some((flag) => flag.samples !== null);
    const most = (flag) => Math.max(flag.pixels ?? 0, flag.samples ?? 0);
    const lines = [...flags].sort((a, b) => most(b) - most(a)).map((flag) =>
      make("tr", {}, make("td", {}, flag.name), share(flag.pixels), isCounted ? share(flag.samples) : null));
    const head = [["flag"], ["of the rate's pixels", "number"],
      ...(isCounted ? [["of the ramp's samples", "number"]] : [])];
    return section("Flags", table("flags", head, lines));
  }
  function makeSteps({ steps, seconds: times }) {
    const off = steps.filter((step) => step.reason === "switched off").map((step) => step.name);
    const before = ["read", "plan"].filter((name) => name in times).map((name) => ({ name, seconds: times[name] }));
    const after = ["write"].filter((name) => name in times).map((name) => ({ name, seconds: times[name] }));
    const all = [...before, ...steps.filter((step) => step.reason !== "switched off"), ...after];
    if (!all.length && !off.length) return null;
    const isTimed = all.some((step) => typeof step.seconds === "number");
    const longest = Math.max(...all.map((step) => step.seconds ?? 0), 1e-9);
    const lines = all.map((step) => {
      const hasTime = typeof step.seconds === "number" && step.status !== "SKIPPED";
      const flagged = Object.entries(step.flagged ?? {}).map(([what, count]) => plain(count) + " " + what);
      const remark = [step.status && step.status !== "COMPLETE" ? step.status.toLowerCase() : "", step.reason, ...flagged];
      return make("tr", { class: step.status === "SKIPPED" ? "quiet" : "" },
        make("td", { class: "step" }, step.name),
        isTimed ? make("td", { class: "bar" }, hasTime ? bar(step.seconds / longest) : null) : null,
        isTimed ? make("td", { class: "number" }, hasTime ? seconds(step.seconds) : "") : null,
        make("td", { class: "value" }, remark.filter(Boolean).join(", ")));
    });
    const title = typeof times.total === "number" ? "Steps, " + seconds(times.total) + " in all" : "Steps";
    const head = [["step"], ...(isTimed ? [[""], ["time", "number"]] : []), ["remark"]];
    const list = section(title, table("steps", head, lines));
    if (off.length) list.append(make("p", { class: "quiet" }, "Switched off: " + off.join(", ")));
    return list;
  }
  function makeParameters(parameters) {
    const lines = Object.entries(parameters).flatMap(([step, values]) =>
      Object.entries(values).map(([name, value]) =>
        make("tr", {}, make("td", {}, step + "." + name), make("td", { class: "value" }, plain(value)))));
    const title = "Parameters that differ from jwst's defaults";
    if (!lines.length) return section(title, make("p", { class: "quiet" }, "none, or no record of them"));
    return section(title, table("", [["parameter"], ["value"]], lines));
  }
  function makeFacts(facts) {
    const list = make("dl", { class: "facts" });
    for (const [label, value] of facts) list.append(make("dt", {}, label), make("dd", {}, value));
    const about = section("Provenance", list);
    about.className = "wide";
    return about;
  }

  // --- begin -----------------------------------------------------------------------------------------------------
  for (const [label, value] of summary) find("summary").append(make("div", {}, make("dt", {}, label), make("dd", {}, value)));
  for (const note of notes) find("notes").append(make("p", {}, note));
  if (rows.length === 1) open.add(rows[0].id);
  makeHeader();
  makeFilters();
  refresh();
  openNamed();
  addEventListener("hashchange", openNamed);
  const observer = new IntersectionObserver((entries) => {
    if (!entries.at(-1).isIntersecting || made === shown.length) return;
    showMore();
    // an observer reports only changes; when restarted, it also reports that the end is still visible
    observer.unobserve(find("sentinel"));
    observer.observe(find("sentinel"));
  }, { rootMargin: "800px" });
  observer.observe(find("sentinel"));
  /** Open the exposure that the address names, as it does after a row was opened. */
  function openNamed() {
    const row = rows.find(({ exposure }) => "#" + encodeURIComponent(exposure) === location.hash);
    if (!row) return;
    open.add(row.id);
    find("filters").reset();
    refresh();
    while (shown.indexOf(row) >= made) showMore();
    body.querySelector(`tr.row[data-id="${row.id}"]`).scrollIntoView();
  }
  addEventListener("beforeprint", () => {
    while (made < shown.length) showMore();
  });
  document.documentElement.dataset.ready = "yes";
})();
