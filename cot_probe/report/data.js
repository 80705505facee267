/* The scripts of the page are one module, joined in the order: elements, data, list, overview, reader, evidence,
   page. */

// Data

/** Records in gzipped pieces; the pieces looked at last stay unpacked. */
class Store {
  constructor(kind, keep) {
    this.pieces = [...document.querySelectorAll(`script.${kind}`)];
    this.firsts = this.pieces.map((element) => Number(element.dataset.first));
    this.keep = keep;
    this.open = new Map();
  }

  piece(number) {
    const known = this.open.get(number) ?? unpacked(this.pieces[number]);
    this.open.delete(number);
    this.open.set(number, known);
    if (this.open.size > this.keep) this.open.delete(this.open.keys().next().value);
    return known;
  }

  async record(n) {
    let low = 0;
    for (let high = this.firsts.length; high - low > 1;) {
      const middle = (low + high) >> 1;
      if (this.firsts[middle] <= n) low = middle;
      else high = middle;
    }
    return (await this.piece(low))[n - this.firsts[low]];
  }
}

async function unpacked(element) {
  const packed = atob(JSON.parse(element.textContent));
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at += 1) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const about = JSON.parse(document.querySelector("script.about").textContent);
const { names, overview } = about;
const stored = new Store("traces", 8);
const contexts = new Store("contexts", 8);
const VISIBILITIES = ["full", "summary", "redacted", "absent"];
const STANCES = ["test", "real", "both"];
const NOT_STATED = "not stated";
/** Scores to show as columns and to rank by: those of the tags that a run is made for. */
const publicTags = names.tags.filter((tag) => about.public.includes(tag));
const columnTags = (publicTags.length ? publicTags : names.tags).slice(0, 4);
const columnNumbers = columnTags.map((tag) => names.tags.indexOf(tag));

for (const tag of [...names.tags, ...names.labels]) lookOf(tag);
const definitions = new Map(Object.entries(about.definitions));
const thresholds = new Map(Object.entries(about.thresholds ?? {}));
const meaning = (tag) => definitions.get(tag) ?? "";
const score = (value) => (value === null || value === undefined ? "–" : (value / about.unit).toFixed(2));

const traces = [];
const byKey = new Map();

async function readIndex() {
  const index = new Store("index", 1);
  for (let number = 0; number < index.pieces.length; number += 1) {
    for (const fields of await index.piece(number)) addTrace(fields);
  }
}

function addTrace(fields) {
  const [id, tags, scores, stance, kind, visibility, model, scenario, source, record] = fields;
  const [checkpoint, unfamiliar, readable, evidence, chars, excerpt] = fields.slice(10);
  // Ids are unique in their file only: a second one of the same name gets a key of its own.
  const name = id.toWellFormed();
  let key = name;
  for (let copy = 2; byKey.has(key); copy += 1) key = `${name}~${copy}`;
  const n = traces.length;
  const ranked = readable ? columnNumbers.map((number) => scores[number] ?? 0) : [];
  const top = readable ? Math.max(0, ...ranked) : null;
  byKey.set(key, n);
  traces.push({
    n,
    key,
    id,
    tags,
    scores,
    stance,
    kind,
    visibility,
    model,
    scenario,
    source,
    record,
    checkpoint,
    unfamiliar,
    readable,
    evidence,
    chars,
    excerpt,
    top,
  });
}

const link = (trace) => `#${encodeURIComponent(trace.key)}`;
const nameOf = (table, number) => (number === null ? NOT_STATED : names[table][number]);
