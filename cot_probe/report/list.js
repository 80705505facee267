// Filters and order

const filterForm = byId("filter");
/** Widths at which the style sheet lays the page out otherwise: rows in columns, panels at the side. */
const columned = matchMedia("(min-width: 761px)");
const sided = matchMedia("(min-width: 1101px)");
/** ``shown`` holds the numbers of the traces that pass the filters, in the order of the list. */
const list = { shown: [], active: null, texts: new Set(), scan: 0, query: "", sort: "top", descending: true };

function option(value, label, number) {
  return h("option", { value }, flat(label) + (number === undefined ? "" : ` (${count(number)})`));
}

function tally(field) {
  const counts = new Map();
  for (const trace of traces) counts.set(trace[field], (counts.get(trace[field]) ?? 0) + 1);
  return counts;
}

function fillFilters() {
  const fields = filterForm.elements;
  const tagged = new Map(names.tags.map((_, number) => [number, 0]));
  let untagged = 0;
  for (const trace of traces) {
    for (const tag of trace.tags) tagged.set(tag, (tagged.get(tag) ?? 0) + 1);
    untagged += trace.readable && !trace.tags.length ? 1 : 0;
  }
  fields.tag.append(option("", "any"), ...[...tagged].map(([n, found]) => option(n, names.tags[n], found)));
  fields.tag.append(option("none", "no tag, though read", untagged));
  fillSelect(fields.stance, tally("stance"), (number) => (number === null ? "none stated" : STANCES[number]));
  fillSelect(fields.kind, tally("kind"), (number) => (number === null ? "none" : names.kinds[number]));
  fillSelect(fields.visibility, tally("visibility"), (number) => VISIBILITIES[number]);
  fillSelect(fields.model, tally("model"), (number) => nameOf("models", number));
  fillSelect(fields.scenario, tally("scenario"), (number) => nameOf("scenarios", number));
  fillSelect(fields.unfamiliar, tally("unfamiliar"), (number) => (number ? "unfamiliar" : "familiar"));
  const ranks = [["top", publicTags.length ? "highest of the main tags" : "highest"]];
  for (const [number, tag] of names.tags.entries()) ranks.push([String(number), tag]);
  fields.scoreOf.append(...ranks.map(([value, label]) => option(value, label)));
  const orders = [
    ["n", "order in the results"],
    ["id", "id"],
    ["model", "model"],
    ["scenario", "scenario"],
  ];
  const scored = ranks.map(([value, label]) => [value, value === "top" ? `score, ${label}` : `score of ${label}`]);
  const all = [...scored, ["evidence", "number of evidence sentences"], ["chars", "length"], ...orders];
  byId("sort").append(...all.map(([value, label]) => option(value, label)));
}

function fillSelect(select, counts, label) {
  const entries = [...counts].map(([number, found]) => ({ number, found, label: label(number) }));
  entries.sort(
    (a, b) => (a.number === null) - (b.number === null) || a.label.localeCompare(b.label, "en", { numeric: true }),
  );
  select.append(option("", "any"), ...entries.map((one) => option(one.number ?? "none", one.label, one.found)));
  select.disabled = entries.length < 2;
}

const same = (wanted, value) => wanted === "" || wanted === String(value ?? "none");
const rank = (trace, of) => (of === "top" ? trace.top : trace.readable ? (trace.scores[of] ?? 0) : null);

/** What the form asks for, as a question to one trace. */
function asked() {
  const wanted = Object.fromEntries(new FormData(filterForm));
  for (const name of ["tag", "stance", "kind", "visibility", "model", "scenario", "unfamiliar"]) wanted[name] ??= "";
  const low = wanted.low === "" ? null : Number(wanted.low) * about.unit;
  const high = wanted.high === "" ? null : Number(wanted.high) * about.unit;
  const plain = ["stance", "kind", "visibility", "model", "scenario", "unfamiliar"];
  const query = list.query;
  const passes = (trace) => {
    if (!plain.every((name) => same(wanted[name], trace[name]))) return false;
    if (wanted.tag === "none" && (trace.tags.length || !trace.readable)) return false;
    if (wanted.tag !== "" && wanted.tag !== "none" && !trace.tags.includes(Number(wanted.tag))) return false;
    if (low !== null || high !== null) {
      const value = rank(trace, wanted.scoreOf);
      if (value === null || value < (low ?? 0) || value > (high ?? about.unit)) return false;
    }
    return query === "" || list.texts.has(trace.n) || outside(trace).includes(query);
  };
  const used = [...plain, "tag", "low", "high"].filter((name) => wanted[name] !== "").length;
  return { passes, used: used + (query === "" ? 0 : 1) };
}

/** What a search looks at beside the text of a trace. */
const outside = (trace) =>
  [
    trace.id,
    nameOf("models", trace.model),
    nameOf("scenarios", trace.scenario),
    trace.source === null ? "" : names.sources[trace.source],
  ]
    .join("\n")
    .toLowerCase();

const named = { model: "models", scenario: "scenarios" };

function compared(a, b) {
  const by = list.sort;
  if (by in named || by === "id") {
    const one = by === "id" ? a.id : nameOf(named[by], a[by]);
    const other = by === "id" ? b.id : nameOf(named[by], b[by]);
    return one.localeCompare(other, "en", { numeric: true });
  }
  if (by === "n" || by === "evidence" || by === "chars") return a[by] - b[by];
  return rank(a, by) - rank(b, by);
}

function applyFilters() {
  const { passes, used } = asked();
  const shown = traces.filter(passes);
  const scored = !["n", "id", "model", "scenario", "evidence", "chars"].includes(list.sort);
  shown.sort((a, b) => {
    if (scored && !(a.readable && b.readable)) return b.readable - a.readable || a.n - b.n;
    return (list.descending ? compared(b, a) : compared(a, b)) || a.n - b.n;
  });
  list.shown = shown.map((trace) => trace.n);
  const all = shown.length === traces.length;
  byId("found").textContent = all
    ? plural(traces.length, "trace")
    : `${count(shown.length)} of ${plural(traces.length, "trace")}`;
  byId("active-filters").textContent = used ? `(${used} in use)` : "";
  showColumns();
  showRows();
}

/** Look for the query in the text of every trace, piece by piece; a newer search ends an older one. */
async function search(query) {
  list.query = query.trim().toLowerCase();
  list.texts = new Set();
  const scan = (list.scan += 1);
  const progress = byId("scanning");
  progress.textContent = list.query === "" ? "" : "searching the text …";
  applyFilters();
  if (list.query === "") return;
  for (let number = 0; number < stored.pieces.length; number += 1) {
    const records = await unpacked(stored.pieces[number]);
    if (scan !== list.scan) return;
    for (const [at, record] of records.entries()) {
      const text = record.sentences
        .map((sentence) => sentence[2])
        .join("")
        .toLowerCase();
      if (text.includes(list.query)) list.texts.add(stored.firsts[number] + at);
    }
    if (number % 8 === 7) {
      progress.textContent = `searching the text, ${percent((number + 1) / stored.pieces.length)}`;
      applyFilters();
    }
  }
  progress.textContent = "";
  applyFilters();
}

// List: of all rows that pass, only those in view are on the page

const rowsBox = byId("rows");
const rowHeight = () => (columned.matches ? 60 : 104);

function showColumns() {
  const headers = [
    ["id", "Trace"],
    ["model", "Model, scenario"],
  ];
  for (const [at, tag] of columnTags.entries()) headers.push([String(columnNumbers[at]), tag]);
  headers.push(["evidence", "Evidence"], ["chars", "Length"]);
  const cells = headers.map(([by, label]) => {
    const on = list.sort === by;
    const direction = on ? (list.descending ? "descending" : "ascending") : null;
    const content =
      by in named || !/^\d+$/.test(by) ? [label] : [chip(label), h("span", { class: "name" }, flat(label))];
    const head = button(content, { class: "sorter" }, () =>
      sortBy(by, on ? !list.descending : !["id", "model"].includes(by)),
    );
    if (on) head.append(h("span", { "aria-hidden": "true", class: "arrow" }, list.descending ? "↓" : "↑"));
    return h("div", { role: "columnheader", "aria-sort": direction, class: /^\d+$/.test(by) ? "num" : by }, head);
  });
  byId("columns").style.setProperty("--scores", columnTags.length);
  byId("columns").replaceChildren(...cells);
  byId("sort").value = list.sort;
  byId("direction").textContent = list.descending ? "descending" : "ascending";
}

function sortBy(by, descending) {
  const focused = document.activeElement?.closest("[role=columnheader]");
  const at = focused ? [...focused.parentNode.children].indexOf(focused) : -1;
  list.sort = by;
  list.descending = descending;
  applyFilters();
  if (at >= 0) byId("columns").children[at].firstChild.focus();
}

function showRows({ all = false } = {}) {
  const height = rowHeight();
  const last = list.shown.length - 1;
  rowsBox.style.height = `${list.shown.length * height}px`;
  byId("table").setAttribute("aria-rowcount", String(list.shown.length + 1));
  const top = -rowsBox.getBoundingClientRect().top;
  const from = all ? 0 : Math.max(0, Math.floor(top / height) - 8);
  const to = all ? Math.min(last, 499) : Math.min(last, Math.ceil((top + innerHeight) / height) + 8);
  const wanted = new Set();
  for (let at = from; at <= to; at += 1) wanted.add(at);
  // The row with the focus stays, wherever the page is scrolled to.
  if (list.active !== null && list.active <= last) wanted.add(list.active);
  const standing = new Map([...rowsBox.children].map((row) => [row.dataset.place, row]));
  const places = [...wanted].sort((a, b) => a - b);
  let before = rowsBox.firstElementChild;
  for (const at of places) {
    const place = `${at}:${list.shown[at]}:${height}`;
    let row = standing.get(place);
    standing.delete(place);
    if (row && row === before) {
      before = before.nextElementSibling;
      continue;
    }
    row ??= listRow(traces[list.shown[at]], at, place, height);
    rowsBox.insertBefore(row, before);
  }
  for (const row of standing.values()) row.remove();
  if (!list.shown.length) rowsBox.replaceChildren(h("p", { class: "none muted" }, "No trace passes these filters."));
}

function listRow(trace, at, place, height) {
  const cell = (kind, ...content) => h("div", { role: "cell", class: kind }, ...content);
  const listed = columnNumbers.map((number) => scoreCell(trace, number, cell));
  const others = trace.tags.filter((tag) => !columnNumbers.includes(tag)).map((tag) => chip(names.tags[tag]));
  const opener = h("a", { href: link(trace), class: "opener", "data-at": at }, flat(trace.id));
  const marks = [...rowMarks(trace), ...others];
  const from = [h("span", { class: "line" }, flat(nameOf("models", trace.model)))];
  from.push(h("span", { class: "line muted" }, flat(nameOf("scenarios", trace.scenario))));
  const excerpt = h("p", { class: `excerpt${trace.evidence ? "" : " muted"}` }, flat(trace.excerpt) || unread(trace));
  const row = h(
    "div",
    { role: "row", class: "row", "aria-rowindex": at + 2, "data-place": place },
    cell("id", h("p", { class: "head" }, opener, marks), excerpt),
    cell("model", from),
    listed,
    cell("evidence", h("span", { class: "unit" }, "evidence "), trace.readable ? count(trace.evidence) : "–"),
    cell("chars", h("span", { class: "unit" }, "characters "), trace.readable ? count(trace.chars) : "–"),
  );
  row.style.setProperty("--scores", columnTags.length);
  row.style.top = `${at * height}px`;
  row.style.height = `${height}px`;
  return row;
}

function scoreCell(trace, number, cell) {
  const tag = names.tags[number];
  if (!trace.readable) return cell("num", h("span", { class: "muted" }, "–"));
  if (!trace.tags.includes(number))
    return cell(
      "num",
      h("span", { class: "unit" }, `${lookOf(tag).code} `),
      h("span", { class: "muted" }, score(trace.scores[number] ?? 0)),
    );
  const detail =
    tag === about.kindLabel && trace.kind !== null
      ? names.kinds[trace.kind]
      : tag === "eval_awareness" && trace.stance !== null
        ? STANCES[trace.stance]
        : "";
  const value = h(
    "b",
    { class: `tagged ${tagClass(tag)}`, title: `${tag}, tagged` },
    `${lookOf(tag).code} ${score(trace.scores[number])}`,
  );
  return cell("num", value, detail && h("span", { class: "detail" }, flat(detail)));
}

function rowMarks(trace) {
  const marks = [];
  const seen = VISIBILITIES[trace.visibility];
  if (seen !== "full") marks.push(h("span", { class: "mark-word" }, seen));
  if (trace.unfamiliar) marks.push(h("span", { class: "mark-word warn" }, "unfamiliar"));
  return marks;
}

const unread = (trace) => (trace.readable ? "" : `nothing to read: reasoning ${VISIBILITIES[trace.visibility]}`);

function moveRow(step) {
  const last = list.shown.length - 1;
  if (last < 0) return;
  const at = list.active === null ? (step > 0 ? 0 : last) : Math.min(last, Math.max(0, list.active + step));
  focusRow(at);
}

function focusRow(at) {
  list.active = at;
  const height = rowHeight();
  const top = rowsBox.getBoundingClientRect().top + at * height;
  const head = byId("columns").getBoundingClientRect().bottom;
  if (top < Math.max(head, 0) || top + height > innerHeight) scrollBy(0, top - innerHeight / 2 + height / 2);
  showRows();
  rowsBox.querySelector(`a[data-at="${at}"]`)?.focus({ preventScroll: true });
}

/** Show the list with one field of the form set, all others cleared. */
function listWith(values) {
  filterForm.reset();
  for (const [name, value] of Object.entries(values)) filterForm.elements[name].value = String(value ?? "none");
  list.query = "";
  list.scan += 1;
  byId("scanning").textContent = "";
  applyFilters();
  views.list.scroll = 0;
  location.hash = "#/traces";
}
