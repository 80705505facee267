// The live page. What stands before this line is shared with the report: elements, text, looks, theme.
// Transcripts are hostile: whatever comes from the service reaches the page as text nodes and as values
// of attributes that take no code; the policy of the page (CSP, trusted types) refuses every other way.

const MOST_ALERTS = 300;
const MOST_SENTENCES = 1_000;
const MOST_ELSEWHERE = 100;
const MOST_STREAMS = 300;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;

const about = { tags: [], public: [], thresholds: new Map(), definitions: new Map() };
const streams = new Map();
const feed = [];
let seen = 0;
let listed = 0;
let chosen = null;

const points = (value) => (typeof value === "number" ? value.toFixed(2) : "–");
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

// Streams as they are known here

function streamOf(id) {
  if (!streams.has(id)) {
    streams.set(id, {
      id,
      name: "",
      state: "open",
      cause: null,
      time: 0,
      sentences: new Map(),
      scored: 0,
      late: 0,
      unscored: 0,
      scores: {},
      alerts: new Map(),
      happenings: [],
      last: "",
      numbers: new Set(),
      row: null,
    });
    forget();
  }
  return streams.get(id);
}

/** Streams that are over make room, the oldest first; the one that is looked at stays. */
function forget() {
  for (const [id, stream] of streams) {
    if (streams.size <= MOST_STREAMS) return;
    if (stream.state === "open" || id === chosen) continue;
    dropStream(id);
  }
}

function dropStream(id) {
  streams.get(id)?.row?.remove();
  streams.delete(id);
}

const titleOf = (stream) => flat(stream.name) || `stream ${stream.id}`;
const link = (stream) => `#/stream/${encodeURIComponent(stream.id)}`;

function describeStream(state) {
  const stream = streamOf(state.id);
  Object.assign(stream, { name: state.name, state: state.state, cause: state.cause, scores: state.trace_scores });
  stream.scored = Math.max(stream.scored, state.sentences);
  stream.late = state.not_scored.provisional;
  stream.unscored = state.not_scored.final;
  stream.time = state.opened;
  for (const alert of state.alerts) {
    stream.alerts.set(`${alert.tag} ${alert.level}`, alert);
    stream.last ||= alert.text;
  }
  changed(stream);
}

/** Take an event of the log of all; what a stream's own log tells later (``number`` null) is in the feed already. */
function take(event, number) {
  const told = number !== null;
  if (event.event === "missed") {
    note(event);
    return;
  }
  // An id may be given again once its stream is over.
  if (event.event === "opened" && streams.get(event.stream)?.time < event.time) dropStream(event.stream);
  const stream = streamOf(event.stream);
  const key = `${event.event} ${event.time} ${event.number ?? ""} ${event.tag ?? ""} ${event.level ?? ""}`;
  const known = stream.numbers.has(key);
  if (event.event === "opened") Object.assign(stream, { name: event.name, time: event.time });
  else if (event.event === "sentence_scored") sentence(stream, event);
  else if (!known && event.event === "closed") {
    Object.assign(stream, { state: "closed", cause: event.cause });
    if (event.scores) stream.scores = event.scores;
  } else if (["alert", "verdict", "not_scored"].includes(event.event)) {
    // The log of all and the stream's own may tell it in either order: once here, once in the feed.
    if (!known) happened(stream, event, number);
    if (told) note(event, stream);
  }
  if (event.event !== "sentence_scored") stream.numbers.add(key);
  changed(stream);
}

function sentence(stream, event) {
  const before = stream.sentences.get(event.number);
  if (before?.final && !event.final) return;
  stream.sentences.set(event.number, event);
  stream.scored = Math.max(stream.scored, event.number + 1);
  stream.scores = event.trace_scores;
  if (event.tags.length) stream.last = event.text;
  // Of a stream that nobody looks at, the end is enough: its log is read again when somebody does.
  while (stream.sentences.size > (stream.id === chosen ? MOST_SENTENCES : MOST_ELSEWHERE)) {
    const oldest = Math.min(...stream.sentences.keys());
    stream.sentences.delete(oldest);
    if (stream.id === chosen) byId("text").querySelector(`[data-number="${oldest}"]`)?.remove();
  }
  if (stream.id === chosen) showSentence(event);
}

function happened(stream, event, number) {
  if (event.event === "alert") {
    const key = `${event.tag} ${event.level}`;
    if (event.state === "onset") stream.alerts.set(key, event);
    else stream.alerts.delete(key);
  } else if (event.event === "not_scored" && number > listed) {
    // What came before the list was made is counted in it.
    stream[event.stage === "final" ? "unscored" : "late"] += event.last - event.first + 1;
  }
  stream.happenings.unshift(event);
  stream.happenings.length = Math.min(stream.happenings.length, MOST_ALERTS);
  if (stream.id === chosen) addTo(byId("happenings"), happening(event, null));
}

/** Into the feed of all streams; verdicts that allow and alerts that end are told in their stream only. */
function note(event, stream) {
  if ((event.event === "verdict" && event.action === "allow") || event.state === "offset") return;
  const before = feed[0];
  if (event.event === "not_scored" && before?.event === "not_scored" && sameGap(before, event)) {
    // A burst is one item, not a flood.
    feed[0] = { ...event, first: Math.min(before.first, event.first), last: Math.max(before.last, event.last) };
    byId("alerts").firstElementChild.replaceWith(happening(feed[0], stream));
    return;
  }
  feed.unshift(event);
  feed.length = Math.min(feed.length, MOST_ALERTS);
  addTo(byId("alerts"), happening(event, stream ?? null));
  if (event.event === "alert") said(`${event.tag} in ${titleOf(stream)}`);
  if (event.event === "verdict") said(`${event.action} in ${titleOf(stream)}`);
}

const sameGap = (a, b) => a.stream === b.stream && a.stage === b.stage && a.reason === b.reason;

function addTo(list, item) {
  list.prepend(item);
  while (list.children.length > MOST_ALERTS) list.lastElementChild.remove();
}
