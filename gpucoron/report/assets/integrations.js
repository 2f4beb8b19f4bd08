// The integrations of an exposure: images from a script beside the page, loaded on demand; and charts along them.
/** at most so many values are decoded for the median of all integrations */
const MOST_VALUES = 6.4e7;
const BLINK_MS = 500;
const waitingTiles = new Map();
window.gpucoronTiles = (exposure, content) => waitingTiles.get(exposure)?.(content);

/** Load the script with the integrations of an exposure: {unit, images, full}. */
function loadTiles(exposure, address) {
  return new Promise((resolve, reject) => {
    const script = make("script", { src: address });
    waitingTiles.set(exposure, resolve);
    script.addEventListener("load", () => {
      script.remove();
      waitingTiles.delete(exposure);
      reject(new Error(address + " does not hold the integrations of " + exposure + ". Write the report again."));
    });
    script.addEventListener("error", () => {
      script.remove();
      reject(new Error(address + " could not be loaded. Keep this file beside the page, or write the report again."));
    });
    document.head.append(script);
  });
}

/** Charts of median, background, noises and shifts per integration; a click shows the integration. */
function makeStrips(integrations, show) {
  const charts = [
    ["median", "Median", "DN/s"],
    ["background", "Background", "DN/s"],
    ["row_noise", "Row noise", "DN/s"],
    ["read_noise", "Read noise", "DN"],
    ["shift_x", "Shift in x", "pixels"],
    ["shift_y", "Shift in y", "pixels"],
  ];
  const made = charts
    .filter(([key]) => integrations[key]?.some((value) => value !== null))
    .map(([key, name, unit]) => {
      const values = integrations[key];
      const errors = integrations[key + "_error"];
      const textAt = (at) => {
        const error = errors?.[at] ? " ± " + digits(errors[at], 2) : "";
        const text = values[at] === null ? "no significant value" + error : digits(values[at], 4) + error + " " + unit;
        return "integration " + at + ": " + text;
      };
      const chart = makeChart({
        label: name + " of each integration",
        x: values.map((_, at) => at),
        xLabel: "integration",
        yLabel: unit,
        textAt,
        series: [{ kind: "points", y: values, error: errors, colour: 0 }],
        onPick: show,
        hint: show ? "Click a point to show its integration." : "",
        size: { width: 330, height: 140 },
        xTicks: integrationTicks(values.length),
      });
      chart.dataset.strip = key;
      chart.prepend(make("figcaption", {}, make("strong", {}, name + " of each integration")));
      return chart;
    });
  const shifts = [integrations.shift_x, integrations.shift_y].filter(Boolean).flat();
  if (shifts.includes(null)) {
    const isAnyKnown = shifts.some((value) => value !== null);
    made.push(
      make(
        "p",
        { class: "quiet" },
        "Shifts of the star are measured against the median integration. " +
          (isAnyKnown ? "Those below 3 times their error are left blank." : "None is larger than 3 times its error."),
      ),
    );
  }
  return made;
}
function integrationTicks(n) {
  const step = Math.max(1, Math.ceil(n / 8));
  const found = [];
  for (let at = 0; at < n; at += step) found.push([at, String(at)]);
  return found;
}

/** The section with the integrations of an exposure. */
function makeIntegrations(exposure) {
  const { detail } = exposure;
  const { integrations, tiles } = detail;
  if (!integrations && !tiles) return null;
  const strips = make("div", { class: "strips" });
  const place = make("div", { class: "integration" });
  let viewer = null;
  const load = async () => {
    if (viewer || !tiles) return viewer;
    place.replaceChildren(make("p", { class: "quiet" }, "Loading " + tiles + " …"));
    try {
      viewer = loadTiles(exposure.row.exposure, tiles).then((content) => makePlayer(exposure, content, strips));
      place.replaceChildren((await viewer).element);
    } catch (error) {
      viewer = null;
      place.replaceChildren(
        make("p", { class: "problem", role: "alert" }, error.message),
        makeButton("Try again", load),
      );
    }
    return viewer;
  };
  if (tiles) {
    place.append(
      makeButton("Load the integrations", load, { "data-loads": "integrations" }),
      make("p", { class: "quiet" }, "They are in " + tiles + "."),
    );
  } else place.append(make("p", { class: "quiet" }, "There are no images of the integrations beside this page."));
  exposure.showIntegration = async (number) => {
    exposure.integration = number;
    (await Promise.resolve(load()).catch(() => null))?.show(number);
  };
  if (integrations) strips.append(...makeStrips(integrations, tiles ? exposure.showIntegration : undefined));
  const made = section("Integrations", make("div", { class: "integrations" }, place, strips));
  made.className = "wide";
  made.dataset.part = "integrations";
  return made;
}

/** Images of single integrations: a slider, play, blink, and the difference to the median. */
async function makePlayer(exposure, { images: packed }, strips) {
  await exposure.ready;
  const n = packed.length;
  const first = await decodeImage(packed[0]);
  const view = exposure.view ?? new View(first.w * first.binning, first.h * first.binning);
  const [plainScale, differenceScale] = [
    new Scale([first]),
    new Scale([first], { stretch: "linear", colours: "diverging" }),
  ];
  const common = { flags: exposure.choice ?? null, onMark: exposure.onMark, image: first };
  const panels = [
    new Panel(view, { ...common, key: "integration", title: "Integration", scale: plainScale }),
    new Panel(view, { ...common, key: "difference", title: "Difference to the median", scale: differenceScale }),
  ];
  for (const panel of panels) panel.canvas.style.aspectRatio = view.w + " / " + view.h;
  const controls = [
    makeScaleControls("integration", plainScale),
    makeScaleControls("difference", differenceScale, ["diverging", "grey", "inferno"]),
  ];
  const state = { number: exposure.integration ?? 0, isDifference: false, median: null, timer: null };
  const slider = make("input", {
    type: "range",
    min: "0",
    max: String(n - 1),
    step: "1",
    value: "0",
    "aria-label": "Integration",
  });
  const name = make("output", { class: "name-of-integration" });
  const other = make("input", {
    type: "number",
    min: "0",
    max: String(n - 1),
    value: String(Math.min(1, n - 1)),
    "aria-label": "Blink with integration",
  });

  const medianImage = async () => {
    if (state.median) return state.median;
    const step = Math.max(1, Math.ceil((n * first.values.length) / MOST_VALUES));
    const all = [];
    for (let at = 0; at < n; at += step) all.push((await decodeImage(packed[at])).values);
    const line = new Float32Array(all.length);
    const values = first.values.map((_, pixel) => {
      let known = 0;
      for (const one of all) if (Number.isFinite(one[pixel])) line[known++] = one[pixel];
      return medianOf(line.slice(0, known));
    });
    if (step > 1) panels[1].note.textContent = "median of every " + step + "th integration";
    state.median = { ...first, values };
    return state.median;
  };
  const show = async (number) => {
    state.number = number;
    slider.value = number;
    name.textContent = "integration " + number + " of 0 to " + (n - 1);
    const image = await decodeImage(packed[number]);
    const difference = state.isDifference ? subtractImages(image, await medianImage()) : null;
    if (state.number !== number) return; // another one was chosen meanwhile
    panels[0].use(image);
    if (difference) panels[1].use(difference);
    panels[0].element.hidden = controls[0].hidden = state.isDifference;
    panels[1].element.hidden = controls[1].hidden = !state.isDifference;
    for (const dot of strips.querySelectorAll("circle.point"))
      dot.classList.toggle("current", Number(dot.dataset.at) === number);
    element.dataset.shown = number + (state.isDifference ? "-difference" : "");
  };
  /** Show an integration that the user has chosen: ramps are then of this one. */
  const choose = (number) => {
    exposure.integration = number;
    return show(number);
  };
  const buttons = { play: null, blink: null };
  const run = (which, next) => {
    const isOn = state.timer && state.running === which;
    stop();
    if (isOn) return;
    state.running = which;
    buttons[which].setAttribute("aria-pressed", "true");
    state.timer = setInterval(async () => {
      if (!element.isConnected) return stop();
      if (state.isBusy) return undefined; // a slow machine shows every integration, later
      state.isBusy = true;
      await show(next());
      state.isBusy = false;
      return undefined;
    }, BLINK_MS);
  };
  const stop = () => {
    clearInterval(state.timer);
    state.timer = null;
    for (const button of Object.values(buttons)) button.setAttribute("aria-pressed", "false");
  };
  buttons.play = makeButton("Play", () => run("play", () => (state.number + 1) % n), { "aria-pressed": "false" });
  buttons.blink = makeButton(
    "Blink",
    () => {
      const pair = [state.number, Math.max(0, Math.min(n - 1, other.valueAsNumber || 0))];
      run("blink", () => (state.number === pair[0] ? pair[1] : pair[0]));
    },
    { "aria-pressed": "false" },
  );
  slider.addEventListener("input", () => choose(slider.valueAsNumber));
  const difference = makeCheckbox("difference to the median", false, async (is) => {
    state.isDifference = is;
    if (is && !state.median) {
      name.textContent = "computing the median …";
      const limits = subtractImages(first, await medianImage());
      differenceScale.isSymmetric = true;
      differenceScale.useImages([limits]);
      differenceScale.useShare(0.995);
    }
    await show(state.number);
  });
  const step = (by) => () => choose((state.number + by + n) % n);
  const describe = (pixel) =>
    [
      placeIn(exposure.row)(pixel),
      panels[state.isDifference ? 1 : 0].describe(pixel),
      exposure.choice && exposure.flagsPanel ? exposure.flagsPanel.describe(pixel) : "",
    ]
      .filter(Boolean)
      .join(" · ");
  const element = make(
    "div",
    { class: "player" },
    make(
      "div",
      { class: "controls" },
      makeButton("‹", step(-1), { "aria-label": "Previous integration" }),
      slider,
      makeButton("›", step(1), { "aria-label": "Next integration" }),
      name,
    ),
    make(
      "div",
      { class: "controls" },
      buttons.play,
      buttons.blink,
      make("label", { class: "small" }, make("span", {}, "with"), other),
      difference,
    ),
    make("div", { class: "controls" }, ...controls),
    makeReadout(view, describe),
    make("div", { class: "images", "data-panels": "1" }, ...panels.map((panel) => panel.element)),
  );
  await show(state.number);
  return { element, show };
}
