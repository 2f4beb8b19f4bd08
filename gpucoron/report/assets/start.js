// Fill the page, and open the exposure or the help that the address names.
for (const [label, value] of summary)
  find("summary").append(make("div", {}, make("dt", {}, label), make("dd", {}, value)));
for (const note of notes) find("notes").append(make("p", {}, note));
if (rows.length === 1) open.add(rows[0].id);
makeHeader();
makeFilters();
makeColumnChooser();
makeHelp();
makeSets();
makeTrends();
refresh();
openNamed();
addEventListener("hashchange", openNamed);
const observer = new IntersectionObserver(
  (entries) => {
    if (!entries.at(-1).isIntersecting || made === shown.length) return;
    showMore();
    // an observer reports only changes; when restarted, it also reports that the end is still visible
    observer.unobserve(find("sentinel"));
    observer.observe(find("sentinel"));
  },
  { root: find("scroll"), rootMargin: "800px" },
);
observer.observe(find("sentinel"));
/** Open what the address names: an exposure, with a view or without, or a line of the help. */
function openNamed() {
  const [name, key] = location.hash.slice(1).split("&view=");
  if (name.startsWith("see-") && find(name)) {
    find("help").open = true;
    find(name).scrollIntoView();
    return;
  }
  const row = rows.find(({ exposure }) => encodeURIComponent(exposure) === name);
  if (!row) return;
  const exposure = exposureOf.get(openExposure(row));
  const view = VIEWS.find((one) => one.key === key);
  if (view) showView(exposure, view);
}
addEventListener("beforeprint", () => {
  while (made < shown.length) showMore();
});
document.documentElement.dataset.ready = "yes";
