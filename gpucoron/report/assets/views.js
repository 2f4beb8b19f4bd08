// Four views that answer a question in one click. An address may name one: report.html#<exposure>&view=map-of-jumps.
const CORE = 64; // px, the side of the region around the star
const VIEWS = [
  {
    key: "rows-of-difference",
    label: "Median of each row of a difference of two rolls",
    help: "shows stripes that are left along the rows, without the star: compare it before and after the 1/f removal",
    lack: ({ row }) => (setOfRolls(row) ? "" : "needs two rolls of this target in the report"),
    show: async ({ row }) => showQuicklook(setOfRolls(row), isRolls),
  },
  {
    key: "map-of-jumps",
    label: "Map of JUMP_DET",
    help: "shows where jumps are flagged: cosmic rays are spread evenly, and the map does not show the star",
    lack: lackOfFlags,
    show: async ({ set, choice }) => {
      choice.showOnly("JUMP_DET");
      set.showPanels(["flags", "rate"]);
      set.view.fit();
      return set.element;
    },
  },
  {
    key: "median-of-integrations",
    label: "Median of each integration",
    help: "shows whether the first integrations differ from the others",
    lack: ({ detail }) => (detail.integrations?.median ? "" : "needs the rateints product"),
    show: async ({ panel }) => panel.querySelector('[data-strip="median"]'),
  },
  {
    key: "flags-at-core",
    label: "Flags around the core",
    help: "shows the DQ of the rate around the star: which pixels are saturated or cannot be used",
    lack: lackOfFlags,
    show: async ({ set, choice, decoded }) => {
      choice.showOnly();
      set.showPanels(["flags", "rate"]);
      const { view } = set;
      const [x, y] = decoded.rate ? middleOfLight(decoded.rate) : [view.w / 2, view.h / 2];
      view.showAround(x, y, CORE);
      return set.element;
    },
  },
];

/** What the views of flags lack; before the images are decoded, whether there are any. */
function lackOfFlags({ row, decoded = find("images-" + row.id) && { flags: true } }) {
  return decoded?.flags ? "" : "needs the rate product";
}
function isRolls({ title }) {
  return /^roll\b/i.test(title);
}
function setOfRolls(row) {
  return sets.find(({ exposures, has_quicklooks: has }) => has && exposures.includes(row.id) && hasRolls(exposures));
}
/** Whether exposures of a set have two rolls: those that differ by less than 1° count as one. */
function hasRolls(exposures) {
  const rolls = exposures
    .map((id) => rowById.get(id))
    .filter((row) => row && row.role !== "reference" && !isEmpty(row.roll))
    .map((row) => row.roll);
  return Math.max(...rolls) - Math.min(...rolls) > 1;
}
/** Show a view of an exposure: bring it into the window. */
async function showView(exposure, { lack, show }) {
  await exposure.ready;
  if (lack(exposure)) return;
  const element = await show(exposure);
  if (!element) return;
  element.scrollIntoView({ block: "start" });
  element.querySelector("canvas:not([hidden] *), svg[tabindex]")?.focus({ preventScroll: true });
}
/** The buttons of the four views, in the details of an exposure. */
function makeViews(exposure) {
  if (exposure.detail.error) return null;
  const buttons = VIEWS.map((view) => {
    const button = makeButton(view.label, () => showView(exposure, view));
    button.dataset.view = view.key;
    return button;
  });
  exposure.updateViews = () =>
    VIEWS.forEach((view, index) => {
      const lack = view.lack(exposure);
      Object.assign(buttons[index], { title: lack || view.help, disabled: Boolean(lack) });
    });
  exposure.updateViews();
  return make(
    "div",
    { class: "views wide controls", role: "group", "aria-label": "Views" },
    make("strong", {}, "See"),
    ...buttons,
  );
}
function makeHelp() {
  const items = VIEWS.map(({ key, label, help }) =>
    make(
      "li",
      { id: "see-" + key },
      make("strong", {}, label),
      ": open an exposure and choose it at the top. It " + help + ".",
    ),
  );
  find("help").append(
    make("ul", {}, ...items),
    make(
      "p",
      {},
      "Images: the wheel or + and − zoom, a drag or the arrow keys move, a double click or 0 shows all. All images " +
        "of an exposure show the same region. Hold the pointer over a pixel to read it; click it to see its ramp. " +
        "Pixels and integrations are counted from zero, and the first row is at the bottom.",
    ),
  );
}
