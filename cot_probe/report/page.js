// Views, keys, theme

const views = { overview: { scroll: 0 }, list: { scroll: 0 }, reader: { scroll: 0 } };
let current = null;

function show(name, title) {
  if (current && current !== name) views[current].scroll = scrollY;
  const changed = current !== name;
  current = name;
  for (const view of Object.keys(views)) byId(view).hidden = view !== name;
  for (const tab of document.querySelectorAll("[data-view]")) {
    if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = flat(title ? `${title} · ${about.title}` : about.title);
  return changed;
}

async function route() {
  const hash = location.hash.slice(1);
  if (hash === "" || hash === "/overview") {
    if (show("overview", "")) scrollTo(0, views.overview.scroll);
    return;
  }
  if (hash !== "/traces") return openTrace(hash);
  const back = current === "reader" ? list.shown.indexOf(reading.trace.n) : -1;
  const changed = show("list", "Traces");
  showRows();
  if (changed) scrollTo(0, views.list.scroll);
  showRows();
  if (back >= 0) focusRow(back);
}

async function openTrace(hash) {
  const n = byKey.get(decoded(hash));
  if (n === undefined) {
    show("list", "Traces");
    showRows();
    said("");
    byId("found").textContent = `There is no trace with the id ${flat(decoded(hash))}.`;
    return;
  }
  if (!(await showTrace(n))) return;
  show("reader", traces[n].id);
  scrollTo(0, 0);
  byId("trace-title").focus({ preventScroll: true });
}

const typing = (target) => target.closest("input, select, textarea, dialog") !== null;

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const key = event.key;
  if (typing(event.target) && key !== "Escape") return;
  if (byId("help").open) return;
  const sentence = event.target.closest(".s");
  const step = { j: 1, n: 1, k: -1, p: -1 }[key.toLowerCase()];
  const letters = byId("single-keys").checked;
  if (key === "Escape") onEscape(event);
  else if (sentence && (key === "ArrowRight" || key === "ArrowLeft"))
    moveSentence(key === "ArrowRight" ? 1 : -1, sentence);
  else if (current === "list" && event.target.closest(".opener") && key.startsWith("Arrow")) onArrow(event);
  else if (!letters) return;
  else if (step && current === "reader" && event.shiftKey) moveTrace(step);
  else if (step && current === "reader") moveEvidence(step);
  else if (step && current === "list") moveRow(step);
  else if (key === "/") toSearch();
  else if (key === "?") byId("help").showModal();
  else return;
  event.preventDefault();
}

function onArrow(event) {
  if (event.key === "ArrowDown") moveRow(1);
  else if (event.key === "ArrowUp") moveRow(-1);
}

function onEscape(event) {
  if (current !== "reader") event.target.blur();
  else if (byId("scores")?.classList.contains("lit") && !sided.matches) clearScores();
  else location.hash = "#/traces";
}

function toSearch() {
  if (current !== "list") location.hash = "#/traces";
  byId("filters").open = true;
  // The view changes once the address has; the field takes the focus after that.
  setTimeout(() => filterForm.elements.query.focus(), 50);
}

function listen() {
  let waiting = null;
  filterForm.addEventListener("input", (event) => {
    if (event.target.name !== "query") return applyFilters();
    clearTimeout(waiting);
    waiting = setTimeout(() => search(event.target.value), 250);
  });
  filterForm.addEventListener("submit", (event) => event.preventDefault());
  filterForm.addEventListener("reset", () => setTimeout(() => search("")));
  byId("sort").addEventListener("change", () =>
    sortBy(byId("sort").value, !["n", "id", "model", "scenario"].includes(byId("sort").value)),
  );
  byId("direction").addEventListener("click", () => sortBy(list.sort, !list.descending));
  let framed = false;
  const onScroll = () => {
    if (framed || current !== "list") return;
    framed = true;
    requestAnimationFrame(() => {
      framed = false;
      if (current === "list") showRows();
    });
  };
  addEventListener("scroll", onScroll, { passive: true });
  addEventListener("resize", onScroll);
  rowsBox.addEventListener("focusin", (event) => {
    const at = event.target.dataset.at;
    if (at !== undefined) list.active = Number(at);
  });
  const reader = byId("reader");
  let pointer = "";
  reader.addEventListener("pointerover", (event) => {
    // Text that scrolls away under a pointer at rest is not pointed at.
    const moved = pointer !== `${event.screenX},${event.screenY}`;
    pointer = `${event.screenX},${event.screenY}`;
    const sentence = event.pointerType === "mouse" && event.target.closest(".s");
    if (sentence && moved) showScores(sentence);
  });
  reader.addEventListener("click", (event) => {
    const sentence = event.target.closest(".s");
    if (sentence && getSelection().isCollapsed) showScores(sentence);
  });
  reader.addEventListener("focusin", (event) => {
    if (!event.target.classList.contains("s")) return;
    reading.last = event.target;
    showScores(event.target);
    const shown = steps();
    const place = shown.indexOf(event.target);
    if (place >= 0) said(`Evidence ${place + 1} of ${shown.length}`);
  });
  addEventListener("keydown", onKey);
  addEventListener("hashchange", route);
  addEventListener("beforeprint", () => {
    for (const fold of byId("reader").querySelectorAll("details")) fold.open = true;
    if (current === "list") showRows({ all: true });
  });
  addEventListener("afterprint", () => {
    if (current === "list") showRows();
  });
  byId("keys").addEventListener("click", () => byId("help").showModal());
  byId("skip").addEventListener("click", () => byId("main").focus());
  byId("single-keys").checked = kept("letters") !== "off";
  byId("single-keys").addEventListener("change", () => kept("letters", byId("single-keys").checked ? "on" : "off"));
}

async function start() {
  offerThemes();
  if (typeof DecompressionStream === "undefined") {
    byId("loading").textContent =
      "This browser cannot unpack gzip (DecompressionStream): open the page with one from 2023 or later.";
    return;
  }
  await readIndex();
  byId("total").textContent = count(traces.length);
  byId("filters").open = sided.matches;
  fillFilters();
  listen();
  applyFilters();
  showOverview();
  byId("loading").hidden = true;
  await route();
  document.documentElement.dataset.ready = "";
}

start().catch((error) => {
  byId("loading").textContent = `The traces cannot be shown: ${flat(error.message)}`;
  throw error;
});
