// The service

let token = null;

function ask(path) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  return fetch(path, { headers, cache: "no-store", redirect: "error" });
}

/** Server-sent events (HTML standard, section 9.2), as far as the service uses them. */
async function eachEvent(body, act) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n");
      const data = lines.find((line) => line.startsWith("data: "));
      const id = lines.find((line) => line.startsWith("id: "));
      if (data) act(JSON.parse(data.slice(6)), id ? Number(id.slice(4)) : null);
    }
  }
}

function connection(state, words) {
  byId("connection").dataset.state = state;
  byId("connection").textContent = words;
}

function askForToken(fault) {
  byId("login").hidden = false;
  byId("watching").hidden = true;
  byId("login-fault").textContent = fault;
  connection("off", "not connected");
  document.documentElement.dataset.ready = "";
  return new Promise((resolve) => {
    byId("login").onsubmit = (event) => {
      event.preventDefault();
      token = byId("login").elements.token.value.trim();
      remember(token);
      byId("login").hidden = true;
      resolve();
    };
  });
}

function remember(value) {
  try {
    if (value !== undefined) sessionStorage.setItem("cot_probe.token", value);
    return sessionStorage.getItem("cot_probe.token");
  } catch {
    return null; // Some browsers keep nothing: the token is asked for again.
  }
}

async function listStreams() {
  const answer = await ask("/v1/streams");
  if (answer.status === 401) {
    await askForToken(token ? "This is not the token of this service." : "");
    return listStreams();
  }
  if (!answer.ok) throw new Error(`the service answers ${answer.status}`);
  const told = await answer.json();
  Object.assign(about, { tags: told.tags, public: told.public_tags });
  about.thresholds = new Map(Object.entries(told.thresholds));
  about.definitions = new Map(Object.entries(told.definitions));
  for (const tag of told.tags) lookOf(tag);
  // Numbers that begin anew: the service was started again, and its streams are gone.
  if (told.last_event < seen) {
    seen = 0;
    for (const stream of streams.values()) if (stream.state === "open") Object.assign(stream, { state: "closed", cause: "shutdown" });
  }
  listed = told.last_event;
  for (const state of told.streams) describeStream(state);
}

async function watchOnce() {
  await listStreams();
  byId("watching").hidden = false;
  showCounts();
  if (chosen === null) route();
  const answer = await ask(`/v1/events?after=${seen}`);
  if (!answer.ok) throw new Error(`the service answers ${answer.status}`);
  connection("on", "connected");
  document.documentElement.dataset.ready = "";
  await eachEvent(answer.body, (event, id) => {
    seen = id ?? seen;
    take(event, id);
  });
}

async function watch() {
  let pause = FIRST_PAUSE_MS;
  for (;;) {
    const begun = Date.now();
    try {
      await watchOnce();
      connection("off", "the service closed the connection: trying again …");
    } catch (error) {
      connection("off", `not connected (${flat(error.message)}): trying again …`);
    }
    pause = Date.now() - begun > LONGEST_PAUSE_MS ? FIRST_PAUSE_MS : Math.min(2 * pause, LONGEST_PAUSE_MS);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function start() {
  offerThemes();
  byId("skip").addEventListener("click", () => byId("main").focus());
  // A token in the address goes into the tab's memory and out of the address.
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    remember(given);
    history.replaceState(null, "", location.pathname);
  }
  token = given ?? remember();
  addEventListener("hashchange", route);
  watch();
}

start();
