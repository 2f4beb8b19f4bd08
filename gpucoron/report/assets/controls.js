// The controls above images: zoom, stretch, limits, colours, flags one by one; and the line that reads out a pixel.

/** Buttons that zoom, and the line with the values of the pixel under the cursor. */
function makeZoom(view) {
  const text = make("output", { class: "quiet zoom-factor" });
  const update = () => (text.textContent = "× " + digits(view.zoom, 3));
  view.listeners.add(update);
  update();
  return make(
    "div",
    { class: "group", role: "group", "aria-label": "Zoom" },
    makeButton("−", () => view.zoomAbout(0.5), { "aria-label": "Zoom out", title: "zoom out (key −)" }),
    makeButton("+", () => view.zoomAbout(2), { "aria-label": "Zoom in", title: "zoom in (key +)" }),
    makeButton("Fit", () => view.fit(), { title: "show the whole image (key 0, double click)" }),
    text,
  );
}
/** The line that reads out the pixel under the cursor, or the marked one. */
function makeReadout(view, describe, hint = "click to see the ramp") {
  const line = make("p", { class: "readout", role: "status" });
  const update = () => {
    const pixel = view.cursor ?? view.marked;
    line.textContent = pixel ? describe(pixel) : "Move the pointer over an image to read its pixels; " + hint + ".";
    line.classList.toggle("quiet", !pixel);
  };
  view.listeners.add(update);
  update();
  return line;
}
/** Stretch, limits and colours of a scale. */
function makeScaleControls(label, scale, colours = Object.keys(COLOUR_MAPS)) {
  const limits = ["low", "high"].map((name) => {
    const input = make("input", {
      type: "number",
      step: "any",
      "aria-label": (name === "low" ? "Lower" : "Upper") + " limit",
    });
    input.dataset.limit = name;
    input.addEventListener("change", () => {
      const changed = { low: scale.low, high: scale.high, [name]: input.valueAsNumber };
      if (changed.high > changed.low) scale.change(changed);
      else update();
    });
    return input;
  });
  const update = () => limits.forEach((input) => (input.value = Number(scale[input.dataset.limit].toPrecision(4))));
  scale.listeners.add(update);
  update();
  const names = Object.keys(STRETCHES).map((name) => [name, name]);
  return make(
    "div",
    { class: "group scale", role: "group", "aria-label": "Colours of " + label },
    make("strong", {}, label),
    makeSelect("stretch", names, scale.stretch, (stretch) => scale.change({ stretch })),
    make("label", { class: "small" }, make("span", {}, "from"), limits[0]),
    make("label", { class: "small" }, make("span", {}, "to"), limits[1]),
    makeButton("99.5 %", () => scale.useShare(0.995), { title: "limits between which 99.5 % of the pixels lie" }),
    makeButton("min–max", () => scale.useShare(1), { title: "limits at the smallest and the largest value" }),
    makeSelect(
      "colours",
      colours.map((name) => [name, name]),
      scale.colours,
      (name) => scale.change({ colours: name }),
    ),
  );
}
/** A checkbox for each flag, and one that draws the flags over the images. */
function makeFlagControls(choice) {
  const { names, counts } = choice.flags;
  const boxes = names.map((name, bit) => {
    const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = "rgb(" + choice.colours[bit].join(" ") + ")";
    const label = makeCheckbox(
      [swatch, name, make("span", { class: "quiet" }, counts[bit].toLocaleString("en"))],
      true,
      (isShown) => choice.change({ shown: choice.shown.map((old, other) => (other === bit ? isShown : old)) }),
    );
    label.dataset.flag = name;
    return label;
  });
  const over = makeCheckbox("over the images", false, (isOverImages) => choice.change({ isOverImages }));
  over.dataset.flag = "over";
  const update = () => {
    boxes.forEach((label, bit) => (label.firstElementChild.checked = choice.shown[bit]));
    over.firstElementChild.checked = choice.isOverImages;
  };
  choice.listeners.add(update);
  const all = (isShown) => () => choice.change({ shown: names.map(() => isShown) });
  return make(
    "div",
    { class: "group flags-shown", role: "group", "aria-label": "Flags" },
    make("strong", {}, "Flags"),
    over,
    makeButton("all", all(true)),
    makeButton("none", all(false)),
    ...boxes,
  );
}
/** A checkbox for each panel, so that the others get more room: its element, and a function that shows some panels. */
function makePanelControls(panels, grid) {
  const boxes = panels.map((panel) => {
    const box = makeCheckbox(panel.title, true, (isShown) => {
      panel.element.hidden = !isShown;
      update();
    });
    box.dataset.shows = panel.key;
    return box;
  });
  const update = () => {
    grid.dataset.panels = panels.filter((panel) => !panel.element.hidden).length;
    panels.forEach((panel, index) => {
      boxes[index].firstElementChild.checked = !panel.element.hidden;
      panel.redraw();
    });
  };
  const showPanels = (keys) => {
    for (const panel of panels) panel.element.hidden = !keys.includes(panel.key);
    update();
  };
  update();
  const element =
    panels.length < 2
      ? null
      : make(
          "div",
          { class: "group", role: "group", "aria-label": "Images shown" },
          make("strong", {}, "Show"),
          ...boxes,
        );
  return { element, showPanels };
}
