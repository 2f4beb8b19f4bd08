// Elements, formats and reading of the JSON blocks. All values from files are inserted as text, never as HTML.
const find = (id) => document.getElementById(id);
const order = new Intl.Collator("en", { numeric: true });
const { rows, summary, notes, sets = [], docs = "" } = readBlock("table");
const rowById = new Map(rows.map((row) => [row.id, row]));

/** Parse a JSON block of the page; null if the page has none of this name. */
function readBlock(name) {
  const block = find(name);
  return block && JSON.parse(block.textContent);
}

// --- formats ---------------------------------------------------------------------------------------------------------
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
/** Write a number with a few significant digits and a real minus sign. */
function digits(value, precision = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return String(Number(value.toPrecision(precision))).replace("-", "−");
}
function withUnit(unit, precision = 3) {
  return (value) => digits(value, precision) + " " + unit;
}
/** Write a number and what it counts: "1 exposure", "3 exposures". */
function counted(number, noun) {
  return number + " " + noun + (number === 1 ? "" : "s");
}
function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
/** Allow line breaks after the underscores of a name. */
function breakable(name) {
  return name.split("_").flatMap((part, index) => (index ? ["_", make("wbr"), part] : [part]));
}

// --- elements --------------------------------------------------------------------------------------------------------
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
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
function bar(share) {
  const element = make("div");
  element.style.width = Math.min(100, 100 * share) + "%";
  return element;
}
function section(title, ...children) {
  return make("section", {}, make("h2", {}, title), ...children);
}
function makeTable(className, head, lines) {
  const header = make("tr", {}, ...head.map(([label, name = ""]) => make("th", { scope: "col", class: name }, label)));
  return make("table", { class: className }, make("thead", {}, header), make("tbody", {}, ...lines));
}
function makeButton(label, act, properties = {}) {
  const button = make("button", { type: "button", class: "act", ...properties }, label);
  button.addEventListener("click", act);
  return button;
}
function makeCheckbox(label, isChecked, act, properties = {}) {
  const box = make("input", { type: "checkbox", checked: isChecked, ...properties });
  box.addEventListener("change", () => act(box.checked));
  return make("label", { class: "check" }, box, ...[label].flat());
}
/** Make a choice; ``options`` are [value, label] pairs. */
function makeSelect(label, options, value, act) {
  const select = make("select", {}, ...options.map(([name, text]) => make("option", { value: name }, text)));
  select.value = value;
  select.addEventListener("change", () => act(select.value));
  return make("label", { class: "small" }, make("span", {}, label), select);
}
/** Make a line of text that a button copies. */
function makeCommand(label, command) {
  const text = make("code", { tabindex: "0" }, command);
  const button = makeButton("Copy", async () => {
    button.textContent = (await copy(text)) ? "Copied" : "Selected: press Ctrl+C";
  });
  return make("div", { class: "command" }, make("span", { class: "quiet" }, label), text, button);
}
/** Copy the text of an element; return whether the browser allows it. The text is selected in any case. */
async function copy(element) {
  getSelection().selectAllChildren(element);
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    return document.execCommand("copy"); // for browsers without a clipboard for pages from a file
  }
}
/** Link to a file beside the page; addresses with a scheme are shown as text. */
function makeLink(label, address) {
  if (/^[a-z][a-z0-9+.-]*:|^\/\//i.test(address)) return make("span", {}, label);
  return make("a", { href: address }, label);
}
/** The name of a step, linked to its page where the page knows the documentation's address. */
function stepName(name) {
  if (!/^\w+$/.test(name) || !/^https?:\/\//.test(docs)) return name;
  return make("a", { href: docs.replace(/\/?$/, "/") + "steps/" + encodeURIComponent(name) + ".html" }, name);
}
/** Call a function once before the next frame, however often it is asked for. */
function onNextFrame(act) {
  let isPlanned = false;
  return () => {
    if (isPlanned) return;
    isPlanned = true;
    requestAnimationFrame(() => {
      isPlanned = false;
      act();
    });
  };
}
