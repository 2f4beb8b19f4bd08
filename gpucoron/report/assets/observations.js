// Exposures that belong together, in time order, with quick-looks: differences of rolls, and of star and reference.
const madeSets = new Map();

function makeSets() {
  const place = find("observations");
  place.hidden = !sets.length;
  place.querySelector("summary").append(" (" + sets.length + ")");
  for (const set of sets) place.append(makeSet(set));
  place.open = sets.length <= 3 && rows.length > 1;
}
function makeSet(set) {
  const members = set.exposures.map((id) => rowById.get(id)).filter(Boolean);
  const nOutliers = members.filter((row) => row.outliers?.length).length;
  const about = [
    counted(members.length, "exposure"),
    set.has_quicklooks ? "quick-looks" : "",
    nOutliers ? counted(nOutliers, "outlier") : "",
  ]
    .filter(Boolean)
    .join(", ");
  const element = make(
    "details",
    { class: "set", id: "observation-" + set.id },
    make("summary", {}, make("strong", {}, set.title), " ", make("span", { class: "quiet" }, about)),
  );
  const state = { element, set, quicklooks: null };
  madeSets.set(set.id, state);
  element.addEventListener("toggle", () => fillSet(state, members));
  return element;
}
/** Fill a set when it is opened for the first time. */
function fillSet(state, members) {
  if (state.isFilled) return;
  state.isFilled = true;
  const lines = members.map((row) => {
    const button = makeButton(row.exposure, () => openExposure(row), { class: "act link" });
    const outliers = (row.outliers ?? []).map(
      (key) => COLUMNS.find((column) => column.key === key)?.label.toLowerCase() ?? key,
    );
    return make(
      "tr",
      {},
      make("td", {}, button),
      make("td", {}, row.start ? day(row.start) + " " + time(row.start) : "–"),
      make("td", { class: "number" }, isEmpty(row.roll) ? "–" : digits(row.roll, 5) + " °"),
      make("td", {}, row.role || "–"),
      make("td", {}, row.target || "–"),
      make("td", {}, row.dither || "–"),
      make("td", {}, [row.filter, row.mask].filter(Boolean).join(" ") || "–"),
      make("td", { class: "number" }, isEmpty(row.exptime) ? "–" : seconds(row.exptime)),
      make("td", { class: outliers.length ? "outlier" : "" }, outliers.length ? "◆ " + outliers.join(", ") : ""),
    );
  });
  const head = [
    ["exposure"],
    ["observed"],
    ["roll", "number"],
    ["role"],
    ["target"],
    ["dither"],
    ["filter, mask"],
    ["exposure time", "number"],
    ["outlier in"],
  ];
  state.element.append(make("div", { class: "sideways" }, makeTable("members", head, lines)));
  if (!state.set.has_quicklooks) return;
  const { quicklooks } = readBlock("set-" + state.set.id) ?? { quicklooks: [] };
  state.quicklooks = quicklooks.map((quicklook) => makeQuicklook(quicklook));
  state.element.append(make("div", { class: "quicklooks" }, ...state.quicklooks.map(({ element }) => element)));
}
/** A quick-look, decoded when it is opened. */
function makeQuicklook({ title, note, images }) {
  const place = make("div", { class: "quicklook" });
  const element = make("details", {}, make("summary", {}, "Quick-look: " + title), place);
  let isShown = null;
  const show = () => (isShown ??= fill());
  const fill = async () => {
    try {
      const panels = [];
      const titles = { after: "After 1/f", before: "Before 1/f", removed: "1/f removed" };
      for (const [key, name] of Object.entries(titles)) {
        if (!images[key]) continue;
        panels.push({
          key,
          title: name,
          image: await decodeImage(images[key]),
          scale: key === "removed" ? "removed" : "rate",
        });
      }
      if (panels.length === 1) panels[0].title = title;
      const { element: content, view } = makeImageSet({ panels, isDifference: true });
      place.append(
        ...[
          note ? make("p", { class: "quiet" }, note) : null,
          content,
          makeProfiles(
            view,
            panels.map((panel) => [panel.key, panel.image, panel.title]),
            null,
          ),
        ].filter(Boolean),
      );
    } catch (error) {
      place.append(make("p", { class: "problem", role: "alert" }, error.message));
    }
  };
  element.addEventListener("toggle", () => {
    if (element.open) show();
    else {
      place.replaceChildren(); // frees the memory of its images
      isShown = null;
    }
  });
  return { title, element, show };
}
/** Open the first quick-look of a set that a condition chooses; return its profiles. */
async function showQuicklook(set, condition) {
  const state = madeSets.get(set.id);
  find("observations").open = state.element.open = true;
  fillSet(state, set.exposures.map((id) => rowById.get(id)).filter(Boolean));
  const quicklook = state.quicklooks?.find(condition);
  if (!quicklook) return state.element;
  quicklook.element.open = true;
  await quicklook.show();
  return quicklook.element.querySelector('[data-part="profiles"]');
}
