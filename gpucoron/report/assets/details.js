// The details of an exposure, which an open row shows.
const exposureOf = new WeakMap();

function makeDetail(row, span) {
  const detail = detailOf(row);
  const exposure = { row, detail, integration: null, describe: placeIn(row), onMark: () => {} };
  const panel = make("div", { class: "panel" });
  const pixel = makePixel(exposure);
  const images = make(
    "div",
    { class: "wide image-place", "data-part": "images" },
    make("p", { class: "quiet" }, "Decoding the images …"),
  );
  const profiles = make("div", { class: "wide", "data-part": "profiles" });
  exposure.ready = showImages(exposure, images, profiles).then(() => exposure.updateViews?.());
  panel.append(
    ...[
      makeFailure(detail.error),
      makeViews(exposure),
      images,
      pixel,
      profiles,
      makeIntegrations(exposure),
      makeHistogram(detail.histogram),
      makeGroups(detail.groups),
      makeFlags(detail.flags ?? []),
      makeSteps(detail),
      makeParameters(detail.parameters ?? {}),
      makeReferences(detail.references),
      makeFacts(detail),
    ].filter(Boolean),
  );
  const line = make("tr", { class: "detail" }, make("td", { colspan: String(span) }, panel));
  exposureOf.set(line, Object.assign(exposure, { panel }));
  return line;
}
/** Decode the images of an exposure and show them, or say why not. */
async function showImages(exposure, place, profiles, decode = () => decodeExposure(exposure.row.id)) {
  const { row, detail } = exposure;
  const note = detail.note ? make("p", { class: "quiet" }, detail.note) : null;
  let decoded = null;
  try {
    decoded = await decode();
  } catch (error) {
    place.replaceChildren(make("p", { class: "problem", role: "alert" }, error.message));
    exposure.decoded = null;
    return;
  }
  if (!decoded || !(decoded.rate || decoded.flags || decoded.removed)) {
    place.replaceChildren(note ?? make("p", { class: "quiet" }, "There are no images of this exposure."));
    return;
  }
  const panels = panelsOf(decoded);
  const set = makeImageSet({
    panels,
    flags: decoded.flags,
    view: exposure.view,
    describePlace: placeIn(row),
    onMark: (pixel) => exposure.onMark(pixel),
  });
  Object.assign(exposure, { view: set.view, choice: set.choice, describe: set.describe, set, decoded });
  exposure.flagsPanel = set.panels.find((panel) => panel.isFlags);
  const { binning } = panels[0]?.image ?? decoded.flags;
  const more = binning > 1 && detail.tiles ? makeFullButton(exposure, place, profiles) : null;
  const hint = decoded.removed
    ? null
    : make("p", { class: "quiet" }, "No 1/f noise was removed, or it was not recorded.");
  place.replaceChildren(...[note, more, set.element, hint].filter(Boolean));
  const lines = panels
    .filter(({ image, scale }) => scale === "rate" || image.unit === panels[0].image.unit)
    .map(({ key, title, image }) => [key, image, title]);
  if (lines.length) profiles.replaceChildren(makeProfiles(set.view, lines, decoded.flags));
}
function makeFullButton(exposure, place, profiles) {
  const button = makeButton(
    "Show every pixel",
    async () => {
      button.disabled = true;
      const decode = async () => {
        const { full } = await loadTiles(exposure.row.exposure, exposure.detail.tiles);
        return full ? decodeAll(full) : null;
      };
      await showImages(exposure, place, profiles, decode);
    },
    { title: "loads the full resolution from " + exposure.detail.tiles },
  );
  return button;
}
function makeFailure(error) {
  if (!error) return null;
  const failure = section(error.type || "Failed", make("p", {}, error.message || "no message"));
  failure.className = "failure wide";
  if (error.traceback) {
    failure.append(
      make("details", {}, make("summary", {}, "Traceback"), make("pre", { tabindex: "0" }, error.traceback)),
    );
  }
  return failure;
}
