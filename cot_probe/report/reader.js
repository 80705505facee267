// Reading view

const reading = { trace: null, record: null, evidence: [], last: null, off: new Set(), turn: 0 };

async function showTrace(n) {
  const turn = (reading.turn += 1);
  const trace = traces[n];
  const record = await stored.record(n);
  const context = await contexts.record(record.context);
  if (turn !== reading.turn) return false;
  Object.assign(reading, { trace, record, last: null, off: new Set() });
  const blocks = placed(record);
  byId("reader").replaceChildren(
    readerBar(trace),
    readerHead(trace, record),
    h(
      "div",
      { class: "sheet" },
      rail(trace, record),
      h(
        "div",
        { class: "blocks" },
        ...blockArticles(trace, record, blocks, Array.from(context)),
        recordPart(trace, record),
      ),
    ),
  );
  reading.evidence = [...byId("reader").querySelectorAll("mark.s")];
  listEvidence();
  showFound();
  return true;
}

/** The sentences under the block that each begins in. */
function placed(record) {
  const blocks = record.blocks.map(
    ([start, end, visibility, message, field, sourceStart, turn, contextEnd, action], number) => ({
      number,
      start,
      end,
      visibility,
      message,
      field,
      sourceStart,
      turn,
      contextEnd,
      action,
      sentences: [],
    }),
  );
  const home = blocks.filter((block) => block.end > block.start);
  let at = 0;
  for (const [n, sentence] of record.sentences.entries()) {
    while (at + 1 < home.length && home[at + 1].start <= sentence[0]) at += 1;
    if (home.length) home[at].sentences.push({ n, sentence });
  }
  return blocks;
}

function readerBar(trace) {
  const at = list.shown.indexOf(trace.n);
  const go = (step) => {
    const next = at < 0 ? undefined : list.shown[at + step];
    const label = step < 0 ? "Previous trace" : "Next trace";
    if (next === undefined) return h("span", { class: "step", "aria-disabled": "true" }, label);
    return h("a", { class: "step", href: link(traces[next]), rel: step < 0 ? "prev" : "next" }, label);
  };
  const position = at < 0 ? "not among the traces listed" : `${count(at + 1)} of ${count(list.shown.length)}`;
  return h(
    "nav",
    { class: "reader-bar", "aria-label": "Traces" },
    h("a", { class: "step", href: "#/traces" }, "All traces"),
    h("span", { class: "muted position" }, position),
    go(-1),
    go(1),
  );
}

function readerHead(trace, record) {
  const from = [];
  if (trace.model !== null) from.push(names.models[trace.model]);
  if (trace.scenario !== null) from.push(names.scenarios[trace.scenario]);
  if (trace.source !== null)
    from.push(names.sources[trace.source] + (trace.record === null ? "" : `, record ${trace.record}`));
  from.push(`reasoning ${VISIBILITIES[trace.visibility]}`);
  if (trace.readable) from.push(plural(trace.chars, "character"));
  const strip = trace.readable
    ? h(
        "dl",
        { class: "strip" },
        names.tags.map((tag, number) => tagScore(trace, tag, number)),
      )
    : null;
  return h(
    "header",
    { class: "reader-head" },
    h("h1", { id: "trace-title", tabindex: "-1" }, flat(trace.id)),
    h(
      "p",
      { class: "from muted" },
      from.map((part) => h("span", {}, flat(part))),
    ),
    ...traceNotices(trace, record),
    strip,
  );
}

function tagScore(trace, tag, number) {
  const value = trace.scores[number] ?? 0;
  const on = trace.tags.includes(number);
  const threshold = thresholds.get(tag);
  const meter = bar(value / about.unit, null, null, 1, tagClass(tag));
  if (threshold !== undefined) {
    const tick = h("span", { class: "tick" });
    tick.style.left = `${100 * threshold}%`;
    meter.append(tick);
  }
  let detail = on ? "tagged" : "not tagged";
  if (on && tag === about.kindLabel && trace.kind !== null) detail += `, ${names.kinds[trace.kind]}`;
  if (on && tag === "eval_awareness" && trace.stance !== null) detail += `, says ${STANCES[trace.stance]}`;
  return h(
    "div",
    { class: on ? "on" : "off" },
    h("dt", {}, chip(tag), " ", h("span", { class: "name", title: meaning(tag) }, flat(tag))),
    h("dd", {}, h("span", { class: "value" }, score(value)), h("span", { class: "state" }, flat(detail)), meter),
  );
}

function traceNotices(trace, record) {
  const out = [];
  const note = (text, ...rest) => out.push(h("div", { class: "notice", role: "note" }, h("p", {}, text), ...rest));
  if (!trace.readable)
    note(`Nothing to read: the reasoning is ${VISIBILITIES[trace.visibility]}. This trace is unread, not clean.`);
  else if (VISIBILITIES[trace.visibility] === "summary")
    note("What follows is the provider's summary of the reasoning, not the reasoning.");
  if (record.unfamiliar) {
    note(
      "Unfamiliar text: the tags on it, and their absence, mean little.",
      h(
        "ul",
        {},
        record.unfamiliar.reasons.map((reason) => h("li", {}, flat(reason))),
      ),
    );
  }
  if (trace.tags.length && trace.readable && !trace.evidence)
    note("No single sentence reaches its own threshold: the trace as a whole does.");
  return out;
}

function rail(trace, record) {
  if (!record.sentences.length) return null;
  const used = new Map();
  for (const [, , , , tags] of record.sentences) for (const tag of tags) used.set(tag, (used.get(tag) ?? 0) + 1);
  const legend = names.labels.map((label, number) => {
    const found = used.get(number) ?? 0;
    const sample = h("span", { class: `sample ${tagClass(label)}` }, flat(label));
    const toggle = button(
      [chip(label), " ", sample, h("span", { class: "count" }, count(found))],
      { "aria-pressed": String(found > 0), disabled: found === 0, title: meaning(label) },
      () => toggleLabel(number, toggle),
    );
    return h("li", {}, toggle);
  });
  return h(
    "aside",
    { class: "rail", "aria-label": "Scores, legend and evidence" },
    h(
      "div",
      { id: "scores", class: "scores" },
      h("h2", {}, "Scores of a sentence"),
      scoreTable([], []),
      h("p", { class: "muted place" }, "Point at one, or press j."),
    ),
    h(
      "section",
      { class: "legend", "aria-labelledby": "legend-title" },
      h("h2", { id: "legend-title" }, "Legend"),
      h("ul", {}, legend),
    ),
    h(
      "section",
      { class: "evidence-list", "aria-labelledby": "evidence-title" },
      h("h2", { id: "evidence-title" }, "Evidence ", h("span", { class: "count" }, count(trace.evidence))),
      h("ol", { id: "evidence" }),
    ),
  );
}

function toggleLabel(number, toggle) {
  const off = reading.off;
  if (off.has(number)) off.delete(number);
  else off.add(number);
  toggle.setAttribute("aria-pressed", String(!off.has(number)));
  for (const mark of reading.evidence) {
    const tags = reading.record.sentences[mark.dataset.n][4];
    mark.classList.toggle(
      "quiet",
      tags.every((tag) => off.has(tag)),
    );
  }
  listEvidence();
  said(`${plural(steps().length, "evidence sentence")} shown`);
}

/** The evidence that the keys step through: what the legend has not switched off. */
const steps = () => reading.evidence.filter((mark) => !mark.classList.contains("quiet"));

function listEvidence() {
  if (!byId("evidence")) return;
  const items = steps().map((mark) => {
    const [, , text, scores, tags] = reading.record.sentences[mark.dataset.n];
    const chips = tags.flatMap((tag) => [
      chip(names.labels[tag]),
      " ",
      h("span", { class: "value" }, score(scores[tag])),
      " ",
    ]);
    return h(
      "li",
      {},
      button(
        [h("span", { class: "codes" }, chips), flat(text.trim()).slice(0, 140)],
        { "data-n": mark.dataset.n },
        () => mark.focus(),
      ),
    );
  });
  byId("evidence").replaceChildren(...items);
  if (!items.length)
    byId("evidence").append(h("li", { class: "muted" }, reading.evidence.length ? "all switched off" : "none"));
}

function blockArticles(trace, record, blocks, context) {
  if (!blocks.length) return [noBlocks(trace, context)];
  let told = 0;
  return blocks.map((block) => {
    const article = blockArticle(record, block, context, told, blocks.length);
    if (block.contextEnd !== null) told = Math.max(told, block.contextEnd);
    return article;
  });
}

function noBlocks(trace, context) {
  return h(
    "article",
    { class: "block" },
    h(
      "div",
      { class: "said" },
      h("p", { class: "unseen" }, `No reasoning in this transcript (${VISIBILITIES[trace.visibility]}).`),
    ),
    h(
      "aside",
      { class: "beside", "aria-label": "Instructions" },
      contextPart({ contextEnd: null, number: 0 }, context, 0),
    ),
  );
}

function blockArticle(record, block, context, told, total) {
  const where = [`Block ${block.number + 1} of ${total}`];
  if (block.turn !== null) where.push(`turn ${block.turn + 1}`);
  if (block.message !== null) where.push(`message ${block.message}`);
  where.push(block.field);
  if (VISIBILITIES[block.visibility] !== "full") where.push(VISIBILITIES[block.visibility]);
  const id = `block-${block.number}`;
  const empty = block.end === block.start;
  const text = empty
    ? h(
        "p",
        { class: "unseen" },
        VISIBILITIES[block.visibility] === "redacted"
          ? "Redacted by the provider: nothing to read here."
          : "Nothing to read here.",
      )
    : h("div", { class: "text", dir: "auto" }, ...blockText(record, block));
  text.lastChild.data &&= text.lastChild.data.trimEnd();
  return h(
    "article",
    { class: `block seen-${VISIBILITIES[block.visibility]}`, "aria-labelledby": id },
    h(
      "h2",
      { id, class: "where" },
      where.map((part) => h("span", {}, flat(part))),
    ),
    h("div", { class: "said" }, text),
    h(
      "aside",
      { class: "beside", "aria-label": `Around block ${block.number + 1}` },
      contextPart(block, context, told),
      actionPart(block),
    ),
  );
}

/** The text of a block: its sentences in order, and a word wherever some of it is not in the results. */
function blockText(record, block) {
  const out = [];
  let at = block.start;
  const gap = (until) => {
    if (until > at)
      out.push(h("span", { class: "gap" }, `[${plural(until - at, "character")} not in the results file]`));
  };
  let before = "";
  for (const { n, sentence } of block.sentences) {
    if (sentence[0] > at) before = "";
    gap(sentence[0]);
    // In a run of sentences with the same tags only the first one carries the cue.
    const cue = cueOf(sentence);
    out.push(...sentenceNodes(record, n, sentence, cue === before ? "" : cue));
    before = cue;
    at = sentence[1];
  }
  gap(block.end);
  return out;
}

const cueOf = ([, , , , tags, kind]) =>
  tags
    .map((tag) => names.labels[tag])
    .map(
      (label) =>
        lookOf(label).code + (label === about.kindLabel && kind !== null ? ` ${flat(names.kinds[kind])}` : ""),
    )
    .join(", ");

function sentenceNodes(record, n, [start, end, text, , tags], cue) {
  const body = text.trim();
  if (!body) return [text.replaceAll("\r\n", "\n")];
  const lead = text.slice(0, text.length - text.trimStart().length);
  const tail = text.slice(text.trimEnd().length);
  const from = start + Array.from(lead).length;
  const content = readableNodes(body, from, end, record.unfamiliar?.spans ?? []);
  if (!tags.length)
    return [...textNodes(lead), h("span", { class: "s", "data-n": n, tabindex: "-1" }, content), ...textNodes(tail)];
  const labels = tags.map((tag) => names.labels[tag]);
  const mark = h(
    "mark",
    { class: `s ${tagClass(labels[0])}`, "data-n": n, tabindex: "0", "aria-describedby": "scores" },
    cue && h("span", { class: "cue", "data-cue": cue, "aria-hidden": "true" }),
    h("span", { class: "sr" }, `${labels.map(flat).join(", ")}: `),
    content,
  );
  return [...textNodes(lead), mark, ...textNodes(tail)];
}

/** A sentence's text; stretches in a form that nobody reads at sight are framed and named. */
function readableNodes(text, start, end, spans) {
  const inside = spans.filter(([from, to]) => from < end && to > start);
  if (!inside.length) return textNodes(text);
  const points = Array.from(text);
  const part = (from, to) => points.slice(Math.max(0, from), Math.max(0, to)).join("");
  const out = [];
  let at = 0;
  for (const [from, to, form] of inside) {
    out.push(...textNodes(part(at, from - start)));
    const label = from >= start ? h("span", { class: "form" }, `${flat(form)}, cannot be read: `) : "";
    out.push(h("span", { class: "unreadable" }, label, ...textNodes(part(Math.max(at, from - start), to - start))));
    at = Math.max(at, to - start);
  }
  out.push(...textNodes(part(at, points.length)));
  return out;
}

const fold = (summary, fill) => {
  const node = h("details", {}, h("summary", {}, summary));
  node.addEventListener("toggle", () => {
    if (node.open && node.childElementCount === 1) node.append(fill());
  });
  return node;
};
const quoted = (text, label) =>
  h("div", { class: "quoted", tabindex: "0", role: "region", "aria-label": label, dir: "auto" }, ...textNodes(text));

/** The instructions in force at a block; from the second block on, what is new stands open. */
function contextPart(block, context, told) {
  const title = h("h3", {}, "Instructions in force");
  if (!context.length) return h("section", {}, title, h("p", { class: "muted" }, "none recorded"));
  if (block.contextEnd === null) {
    const whole = quoted(context.join(""), "Instructions");
    const note = h("p", { class: "muted" }, "The format does not tell which of these came before this block.");
    return h("section", {}, title, note, block.number ? fold(plural(context.length, "character"), () => whole) : whole);
  }
  const all = () => quoted(context.slice(0, block.contextEnd).join(""), "Instructions in force");
  if (!told) return h("section", {}, title, block.contextEnd ? all() : h("p", { class: "muted" }, "none so far"));
  const added = context.slice(told, block.contextEnd).join("").trim();
  const news = added
    ? [h("p", { class: "muted" }, "new since the block before"), quoted(added, "New instructions")]
    : [h("p", { class: "muted" }, "as at the block before")];
  return h("section", {}, title, ...news, fold(`all of them, ${plural(block.contextEnd, "character")}`, all));
}

function actionPart(block) {
  const title = h("h3", {}, "Action that follows");
  const content = block.action.trim()
    ? quoted(block.action, "Action that follows")
    : h("p", { class: "muted" }, "none recorded");
  return h("section", { class: "action" }, title, content);
}

function recordPart(trace, record) {
  const rows = [
    ["id", trace.id],
    ["source", trace.source === null ? NOT_STATED : names.sources[trace.source]],
  ];
  if (trace.record !== null) rows.push(["record", String(trace.record)]);
  if (record.message !== null) rows.push(["first message", String(record.message)]);
  if (record.format !== null) rows.push(["format", record.format]);
  if (record.tokens !== null) rows.push(["tokens read", count(record.tokens)]);
  rows.push(["checkpoint", names.checkpoints[trace.checkpoint]], ...record.metadata);
  return h(
    "section",
    { class: "record", "aria-labelledby": "record-title" },
    h("h2", { id: "record-title" }, "Record"),
    h(
      "dl",
      {},
      rows.map(([name, value]) => [h("dt", {}, flat(name)), h("dd", { dir: "auto" }, ...textNodes(value))]).flat(),
    ),
  );
}
