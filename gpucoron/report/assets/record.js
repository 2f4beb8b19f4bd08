// What the record of an exposure says: flags, steps, parameters, references, provenance.
/** Draw the fraction of pixels with a jump or saturation in each group. */
function makeGroups(groups = { jump: [], saturated: [] }) {
  const n = Math.max(groups.jump.length, groups.saturated.length);
  if (n < 1) return null;
  const [width, height, left, right, top, bottom] = [520, 170, 52, 10, 8, 34];
  const highest = Math.max(...groups.jump, ...groups.saturated, 1e-6);
  const power = 10 ** Math.floor(Math.log10(highest));
  const ceiling = [1, 2, 5, 10].map((factor) => factor * power).find((limit) => limit >= highest) ?? highest;
  const x = (group) => left + (width - left - right) * (n === 1 ? 0.5 : group / (n - 1));
  const y = (share) => height - bottom - (height - top - bottom) * (share / ceiling);
  const chart = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img" });
  chart.setAttribute(
    "aria-label",
    "Fraction of pixels by group; at most " +
      percent(Math.max(...groups.jump, 0)) +
      " jumps and " +
      percent(Math.max(...groups.saturated, 0)) +
      " saturated",
  );
  for (const share of [0, ceiling / 2, ceiling]) {
    chart.append(
      draw("line", { class: share ? "grid" : "axis", x1: left, x2: width - right, y1: y(share), y2: y(share) }),
    );
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
  const legend = make(
    "ul",
    { class: "legend quiet" },
    ...[
      ["jump", "jump"],
      ["saturated", "saturated"],
    ].map(([kind, label]) =>
      make("li", {}, make("span", { class: "swatch dot-" + kind, "aria-hidden": "true" }), label),
    ),
  );
  return section("Flagged pixels by group", legend, chart);
}
function makeFlags(flags) {
  if (!flags.length) return null;
  const share = (value) => make("td", { class: "number" }, value === null ? "–" : percent(value));
  const isCounted = flags.some((flag) => flag.samples !== null);
  const most = (flag) => Math.max(flag.pixels ?? 0, flag.samples ?? 0);
  const lines = [...flags]
    .sort((a, b) => most(b) - most(a))
    .map((flag) =>
      make("tr", {}, make("td", {}, flag.name), share(flag.pixels), isCounted ? share(flag.samples) : null),
    );
  const head = [
    ["flag"],
    ["of the rate's pixels", "number"],
    ...(isCounted ? [["of the ramp's samples", "number"]] : []),
  ];
  return section("Flags", makeTable("flags", head, lines));
}
function makeSteps({ steps = [], seconds: times = {} }) {
  const off = steps.filter((step) => step.off).map((step) => step.name);
  const before = ["read", "plan"].filter((name) => name in times).map((name) => ({ name, seconds: times[name] }));
  const after = ["write"].filter((name) => name in times).map((name) => ({ name, seconds: times[name] }));
  const all = [...before, ...steps.filter((step) => !step.off), ...after];
  if (!all.length && !off.length) return null;
  const isTimed = all.some((step) => typeof step.seconds === "number");
  const longest = Math.max(...all.map((step) => step.seconds ?? 0), 1e-9);
  const lines = all.map((step) => {
    const hasTime = typeof step.seconds === "number" && step.status !== "SKIPPED";
    return make(
      "tr",
      { class: step.status === "SKIPPED" ? "quiet" : "" },
      make("td", { class: "step" }, "status" in step ? stepName(step.name) : step.name),
      isTimed ? make("td", { class: "bar" }, hasTime ? bar(step.seconds / longest) : null) : null,
      isTimed ? make("td", { class: "number" }, hasTime ? seconds(step.seconds) : "") : null,
      make("td", { class: "value" }, step.remark ?? ""),
    );
  });
  const title = typeof times.total === "number" ? "Steps, " + seconds(times.total) + " in all" : "Steps";
  const head = [["step"], ...(isTimed ? [[""], ["time", "number"]] : []), ["remark"]];
  const list = section(title, makeTable("steps", head, lines));
  if (off.length) list.append(make("p", { class: "quiet" }, "Switched off: " + off.join(", ")));
  return list;
}
function makeParameters(parameters) {
  const lines = Object.entries(parameters).flatMap(([step, values]) =>
    Object.entries(values).map(([name, value]) =>
      make("tr", {}, make("td", {}, step + "." + name), make("td", { class: "value" }, plain(value))),
    ),
  );
  const title = "Parameters that differ from jwst's defaults";
  if (!lines.length) return section(title, make("p", { class: "quiet" }, "none, or no record of them"));
  return section(title, makeTable("", [["parameter"], ["value"]], lines));
}
/** References by name. */
function makeReferences(references) {
  if (!references?.length) return null;
  const lines = references.map(([type, name]) =>
    make("tr", {}, make("td", {}, type), make("td", { class: "value" }, name)),
  );
  return section("References", makeTable("references", [["type"], ["file"]], lines));
}
/** Provenance: facts, links to log and products, the command that makes the products again. */
function makeFacts({ facts = [], links = [], commands: own = {} }) {
  const list = make("dl", { class: "facts" });
  for (const [label, value] of facts) list.append(make("dt", {}, label), make("dd", {}, value));
  const about = section("Provenance", list);
  about.className = "wide";
  if (links.length) {
    const items = links.map(([label, address]) => make("li", {}, makeLink(label, address)));
    about.append(make("h3", {}, "Files"), make("ul", { class: "links" }, ...items));
  }
  if (own.again)
    about.append(make("h3", {}, "Again"), makeCommand("The command that makes these products:", own.again));
  return about;
}
