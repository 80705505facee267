/* What the report and the live page share: elements, text, looks, theme.
   Transcripts are hostile. Whatever comes from the data reaches a page as text nodes and as values of
   attributes that take no code; the policy of each page (CSP, trusted types) refuses every other way. */

// Elements and text

const byId = (id) => document.getElementById(id);

/** An element with attributes and children; texts among the children become text nodes. */
function h(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  node.append(...children);
  return node;
}

const button = (label, attributes, act) => {
  const node = h("button", { type: "button", ...attributes }, label);
  node.addEventListener("click", act);
  return node;
};

/* Characters that hide, or that turn the text around them: controls, directional marks, invisible ones. */
const ODD =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}\p{Cs}]|\r(?!\n)/gu;
const codePoint = (char) => `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** One line of text for names, options and titles; odd characters are spelled out. */
const flat = (text) =>
  String(text)
    .replace(ODD, (char) => `\u27e8${codePoint(char)}\u27e9`)
    .replace(/\s+/g, " ");

/** Text as it stands, line breaks and all; odd characters are shown as marks. */
function textNodes(text) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(ODD)) {
    if (match.index > at) nodes.push(text.slice(at, match.index).replaceAll("\r\n", "\n"));
    nodes.push(h("span", { class: "odd", title: "a character that does not show" }, codePoint(match[0])));
    at = match.index + match[0].length;
  }
  if (at < text.length) nodes.push(text.slice(at).replaceAll("\r\n", "\n"));
  return nodes;
}

const count = (n) => n.toLocaleString("en");
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : (many ?? `${one}s`)}`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const said = (text) => (byId("spoken").textContent = text);
const kept = (key, value) => {
  try {
    if (value !== undefined) localStorage.setItem(`cot_probe.${key}`, value);
    return localStorage.getItem(`cot_probe.${key}`);
  } catch {
    return null; // Some browsers keep nothing for pages from a disk.
  }
};

// How each tag looks: a short code, and a slot of colour and underline in the style sheet

const SLOTS = {
  strategic_harm: 0,
  command_disobedience: 1,
  states_test: 2,
  states_real: 3,
  harm_rejected: 4,
  eval_awareness: 5,
};
const looks = new Map();

function lookOf(tag) {
  if (!looks.has(tag)) {
    const words = tag.split(/[_-]+/).filter(Boolean);
    const initials = words.length > 1 ? words.map((word) => Array.from(word)[0]).join("") : tag.slice(0, 2);
    const taken = new Set([...looks.values()].map((look) => look.code));
    let code = initials.slice(0, 4).toUpperCase();
    for (let extra = 2; taken.has(code); extra += 1) code = `${initials.slice(0, 3).toUpperCase()}${extra}`;
    const own = [...looks.keys()].filter((known) => !Object.hasOwn(SLOTS, known)).length;
    looks.set(tag, { code, slot: Object.hasOwn(SLOTS, tag) ? SLOTS[tag] : 6 + (own % 4) });
  }
  return looks.get(tag);
}
const tagClass = (tag) => `tag-${lookOf(tag).slot}`;
const chip = (tag, detail) =>
  h("span", { class: `chip ${tagClass(tag)}`, title: tag }, lookOf(tag).code, detail ? ` ${flat(detail)}` : "");

// Theme and address

const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}

/** The theme that was kept, and a button that goes on to the next. */
function offerThemes() {
  const theme = kept("theme");
  setTheme(THEMES.includes(theme) ? theme : "system");
  byId("theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    kept("theme", next);
    setTheme(next);
  });
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // A stray percent sign that somebody typed.
  }
}
