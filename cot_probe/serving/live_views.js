// What happened, as one item of a list

function happening(event, stream) {
  const parts = { alert: alertParts, verdict: verdictParts, not_scored: unscoredParts, missed: missedParts }[event.event];
  const { what, rest, tag } = parts(event);
  const where = stream ? [h("span", {}, "in "), h("a", { href: link(stream) }, titleOf(stream))] : [];
  const ended = event.state === "offset" ? " ended" : "";
  return h(
    "li",
    { class: `happening${ended}${tag ? ` ${tagClass(tag)}` : ""}` },
    h("p", { class: "what" }, ...what, h("span", { class: "where-it-was" }, ...where), time(event)),
    ...rest,
  );
}

const time = (event) => h("time", { datetime: new Date(event.time * 1000).toISOString() }, clock(event.time));

function alertParts(event) {
  const level = event.level === "sentence" ? `sentence ${count(event.number + 1)}` : "the trace so far";
  const state = event.state === "onset" ? "" : " · over";
  const what = [
    chip(event.tag),
    h("span", { class: "name" }, flat(event.tag)),
    h("span", { class: "muted" }, `${level} · ${points(event.score)} of ${points(event.threshold)}${state}`),
  ];
  return { what, rest: event.state === "onset" ? [h("blockquote", {}, ...textNodes(event.text.trim()))] : [], tag: event.tag };
}

function verdictParts(event) {
  const tool = event.tool ? flat(event.tool) : "a tool call";
  const what = [h("span", { class: `verdict ${event.action}` }, event.action), h("span", { class: "name" }, tool)];
  if (!event.scored) what.push(h("span", { class: "unscored" }, "not all of it was scored"));
  const rest = [];
  if (event.reasons.length)
    rest.push(h("ul", { class: "reasons" }, ...event.reasons.map((reason) => h("li", {}, flat(reason)))));
  const strongest = event.evidence.reduce((best, one) => (best && best.score >= one.score ? best : one), null);
  if (strongest && event.action !== "allow")
    rest.push(h("blockquote", { class: tagClass(strongest.tag) }, ...textNodes(strongest.text.trim())));
  return { what, rest };
}

function unscoredParts(event) {
  const which = event.first === event.last ? `sentence ${count(event.first + 1)}` : `sentences ${count(event.first + 1)} to ${count(event.last + 1)}`;
  const stage = event.stage === "final" ? "no final score" : "no provisional score";
  const what = [h("span", { class: "name unscored" }, "not scored"), h("span", {}, `${which}: ${stage}`)];
  return { what, rest: [h("p", { class: "muted" }, flat(event.reason))] };
}

function missedParts(event) {
  const what = [h("span", { class: "name unscored" }, "missed"), h("span", {}, `${plural(event.count, "event")} went by before this page could read them`)];
  return { what, rest: [] };
}

// The list of streams: rows that have changed are made anew, together, a few times a second

const stale = new Set();
let pending = false;

function changed(stream) {
  stale.add(stream);
  if (pending) return;
  pending = true;
  setTimeout(() => {
    pending = false;
    for (const one of stale) if (streams.get(one.id) === one) showStream(one);
    if (stale.has(streams.get(chosen))) showState(streams.get(chosen));
    stale.clear();
    showCounts();
  }, 150);
}

function stateOf(stream) {
  const words = { client: "closed", disconnected: "closed: its client left", idle: "closed: nothing came any more" };
  const causes = { ...words, shutdown: "closed: the service was stopped", fault: "closed: reading it failed" };
  return stream.state === "open" ? "open" : (causes[stream.cause] ?? stream.state);
}

function gaps(stream) {
  const told = [];
  if (stream.late) told.push(`${count(stream.late)} not read at once`);
  if (stream.unscored) told.push(`${count(stream.unscored)} not scored`);
  return told;
}

function showStream(stream) {
  const tags = [...new Set([...stream.alerts.values()].map((alert) => alert.tag))];
  const figures = [stateOf(stream), plural(stream.scored, "sentence")];
  figures.push(...gaps(stream));
  const opener = h("a", { href: link(stream), "aria-current": stream.id === chosen ? "true" : null }, titleOf(stream));
  const marks = h("span", { class: "chips" }, ...tags.map((tag) => chip(tag, points(stream.scores[tag]))));
  const parts = [opener, h("span", { class: "about" }, figures.join(" · ")), marks];
  if (stream.last) parts.push(h("span", { class: "last" }, flat(stream.last)));
  const focused = stream.row?.contains(document.activeElement);
  if (!stream.row) {
    stream.row = h("li", {});
    byId("streams").prepend(stream.row);
  }
  stream.row.className = `stream${tags.length ? " alarmed" : ""}${stream.id === chosen ? " chosen" : ""}${stream.state === "open" ? "" : " over"}`;
  stream.row.replaceChildren(...parts);
  if (focused) opener.focus({ preventScroll: true });
}

function showCounts() {
  const all = [...streams.values()];
  const open = all.filter((stream) => stream.state === "open");
  const alarmed = open.filter((stream) => stream.alerts.size);
  byId("streams-count").textContent = all.length ? `${count(open.length)} open of ${count(all.length)}` : "";
  byId("no-streams").hidden = all.length > 0;
  byId("no-alerts").hidden = feed.length > 0;
  byId("feed-count").textContent = feed.length
    ? `the last ${count(feed.length)}${alarmed.length ? `; ${plural(alarmed.length, "open stream")} with an alert on` : ""}`
    : "";
  document.title = `${alarmed.length ? `(${alarmed.length}) ` : ""}cot_probe live`;
}

// The reading view of one stream

function showState(stream) {
  byId("reader-title").textContent = titleOf(stream);
  const figures = [stateOf(stream), `opened ${clock(stream.time)}`, plural(stream.scored, "sentence")];
  figures.push(...gaps(stream));
  byId("reader-state").textContent = figures.join(" · ");
  const first = Math.min(...stream.sentences.keys());
  const gone = first > 0 && first < Infinity ? `${plural(first, "earlier sentence")} not shown here.` : "";
  byId("gone").textContent = gone;
  byId("gone").hidden = !gone;
  byId("no-happenings").hidden = stream.happenings.length > 0;
  byId("running").firstElementChild.replaceChildren(...about.public.map((tag) => runningRow(stream, tag)));
}

function runningRow(stream, tag) {
  const value = stream.scores[tag];
  const threshold = about.thresholds.get(tag);
  const on = typeof value === "number" && typeof threshold === "number" && value >= threshold;
  const fill = h("span", { class: "fill" });
  fill.style.width = `${100 * Math.min(1, value ?? 0)}%`;
  const meter = h("span", { class: `meter ${tagClass(tag)}` }, fill);
  if (typeof threshold === "number") {
    const tick = h("span", { class: "tick" });
    tick.style.left = `${100 * threshold}%`;
    meter.append(tick);
  }
  return h(
    "tr",
    { class: on ? "on" : null },
    h("th", { scope: "row" }, chip(tag), ` ${flat(tag)}`),
    h("td", { class: "num" }, points(value)),
    h("td", { class: "bars" }, meter),
    h("td", { class: "muted" }, on ? "reached" : `from ${points(threshold)}`),
  );
}

function sentenceNode(event) {
  const tagged = event.tags.length > 0;
  const best = event.tags.reduce((one, tag) => (one && event.scores[one] >= event.scores[tag] ? one : tag), null);
  const told = Object.entries(event.scores).map(([label, value]) => `${label} ${points(value)}`);
  const attributes = {
    class: `s${tagged ? ` ${tagClass(best)}` : ""}${event.final ? "" : " provisional"}`,
    title: `${event.final ? "" : "provisional: "}${told.join(", ")}`,
    "data-number": event.number,
  };
  if (!tagged) return h("span", attributes, ...textNodes(event.text));
  const codes = event.tags.map((tag) => lookOf(tag).code).join(" ") + (event.harm_kind ? ` ${flat(event.harm_kind)}` : "");
  const cue = h("span", { class: "cue", "data-cue": codes, "aria-hidden": "true" });
  const body = event.text.trimEnd();
  return h(
    "span",
    { ...attributes, class: "s-outer" },
    h("mark", { class: attributes.class }, cue, h("span", { class: "sr" }, `${event.tags.join(", ")}: `), ...textNodes(body)),
    event.text.slice(body.length),
  );
}

function showSentence(event) {
  const box = byId("text");
  const node = sentenceNode(event);
  const old = box.querySelector(`[data-number="${event.number}"]`);
  if (old) old.replaceWith(node);
  else {
    let after = box.lastElementChild;
    while (after && Number(after.dataset.number) > event.number) after = after.previousElementSibling;
    if (after) after.after(node);
    else box.prepend(node);
  }
  if (byId("follow").checked) box.scrollTop = box.scrollHeight;
}

async function openStream(id) {
  const stream = streams.get(id);
  if (!stream) {
    location.hash = "#/alerts";
    return;
  }
  const before = streams.get(chosen);
  chosen = id;
  if (before) changed(before);
  changed(stream);
  byId("text").replaceChildren();
  byId("happenings").replaceChildren(...stream.happenings.map((event) => happening(event, null)));
  for (const event of [...stream.sentences.values()].sort((a, b) => a.number - b.number)) showSentence(event);
  showState(stream);
  await fill(stream);
}

/** What came before this page was opened, or was not kept here: the stream's own log is read. */
async function fill(stream) {
  const answer = await ask(`/v1/streams/${encodeURIComponent(stream.id)}/events?wait_s=0`);
  if (!answer.ok) return;
  await eachEvent(answer.body, (event) => take(event, null));
  stream.happenings.sort((a, b) => b.time - a.time);
  if (chosen === stream.id) byId("happenings").replaceChildren(...stream.happenings.map((event) => happening(event, null)));
}

async function route() {
  const [, view, id] = location.hash.split("/");
  const wanted = view === "stream" ? decoded(id ?? "") : null;
  const before = streams.get(chosen);
  byId("feed").hidden = wanted !== null;
  byId("reader").hidden = wanted === null;
  if (wanted === null) {
    chosen = null;
    if (before) changed(before);
    return;
  }
  await openStream(wanted);
  if (chosen !== null) byId("reader-title").focus({ preventScroll: true });
}
