// The marked pixel of an exposure: its ramp where the page is served, else the command that draws it.
function makePixel(exposure) {
  const place = make("div", { class: "pixel wide", hidden: true, "aria-live": "polite" });
  const served = document.documentElement.dataset.serve;
  const n = exposure.detail.integrations?.median?.length ?? 0;
  exposure.onMark = (pixel) => {
    const [x, y] = pixel;
    place.hidden = false;
    const content = make("div", { class: "ramp" });
    let { integration } = exposure; // null: the first one in which the pixel has a jump
    const update = () =>
      content.replaceChildren(
        ...(served ? makeFrame(served, exposure, pixel, integration) : []),
        makeRampCommand(exposure, pixel, integration),
      );
    const number = make("input", {
      type: "number",
      min: "0",
      value: integration === null ? "" : String(integration),
      placeholder: "any",
      "aria-label": "Integration of the ramp, from 0",
      title: "counted from 0; empty: the first integration in which the pixel has a jump",
    });
    if (n) number.max = String(n - 1);
    number.addEventListener("change", () => {
      if (!number.validity.valid) return;
      integration = number.value === "" ? null : number.valueAsNumber;
      update();
    });
    const close = makeButton("Close", () => {
      place.hidden = true;
      exposure.view.mark(null);
    });
    update();
    place.replaceChildren(
      make(
        "div",
        { class: "controls" },
        make("strong", {}, "Pixel " + placeOf([x, y])),
        make("label", { class: "small" }, make("span", {}, "integration"), number),
        close,
      ),
      make("p", {}, exposure.describe(pixel)),
      content,
    );
    revealIfHidden(place);
  };
  return place;
}
/** ms after a click in which a second one makes it a double click, which must find the image where it was */
const DOUBLE_CLICK = 400;
let revealing = 0;
// a user who clicks again, types or scrolls looks elsewhere
for (const kind of ["pointerdown", "keydown", "wheel", "scroll"]) {
  document.addEventListener(kind, () => clearTimeout(revealing), { capture: true, passive: true });
}
/** Scroll to the ramp if nothing of it is in view: below the images it would not be noticed. */
function revealIfHidden(place) {
  clearTimeout(revealing);
  revealing = setTimeout(() => {
    const { top, bottom } = place.getBoundingClientRect();
    if (top > innerHeight - 40 || bottom < 40) place.scrollIntoView({ block: "nearest" });
  }, DOUBLE_CLICK);
}
function makeFrame(served, { row }, [x, y], integration) {
  const query = new URLSearchParams({ exposure: row.exposure, x, y });
  if (integration !== null) query.set("int", integration);
  const wait = make("p", { class: "quiet", role: "status" }, "The ramp is being traced …");
  const frame = make("iframe", {
    src: served + "/ramp?" + query,
    title: "Ramp of pixel " + placeOf([x, y]) + " of " + row.exposure,
  });
  frame.addEventListener("load", () => wait.remove());
  return [wait, frame];
}
function makeRampCommand({ detail }, [x, y], integration) {
  const place = integration === null ? String(y) : y + " --int " + integration;
  const command = (detail.commands?.ramp ?? "").replace("{x}", x).replace("{y}", place);
  if (!command)
    return make("p", { class: "quiet" }, "There is no command for its ramp: the report does not know the uncal file.");
  return makeCommand("Its ramp and the causes of its flags:", command);
}
