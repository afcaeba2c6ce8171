"use strict";
// Keeps the page up to date with sections that the server renders, and claims the password.

const byId = (id) => document.getElementById(id);
const root = document.documentElement;
root.classList.add("js");
let skew = 0; // milliseconds by which the server's clock is ahead of this one
let heard = Date.now();
let lostAt = null;
let outdated = false; // the sidecar is another version, with another page

// --- live -----------------------------------------------------------------------------------------------------------

const SILENCE = 40000; // milliseconds: two pulses and a bit
const RENEWAL = 15000; // milliseconds between two reports, if no stream is available
let stream = null;
let begun; // when it was opened
let again; // the next try

function connect() {
  clearTimeout(again);
  stream?.close();
  stream = new EventSource("events");
  begun = Date.now();
  stream.addEventListener("hello", (event) => {
    const restarted = greet(JSON.parse(event.data));
    found("live", restarted);
  });
  stream.addEventListener("section", (event) => {
    found("live");
    const [id, section] = JSON.parse(event.data);
    show(id, parsed(section));
  });
  stream.addEventListener("pulse", () => found("live"));
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) refused();
    else lost("No connection to the sidecar");
  };
}

async function refused() { // the browser doesn't retry by itself
  let there = false;
  try {
    there = (await get("livez")).ok && await report();
  } catch { /* no response */ }
  if (!there) lost("No connection to the sidecar");
  again = setTimeout(connect, there ? RENEWAL : 5000);
}

const get = (path) => fetch(path, { headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(5000) });

async function report() { // instead of a stream: loads the whole page, returns whether that succeeded
  const answer = await get("./");
  if (!answer.ok) return false;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const restarted = greet({ ...page.documentElement.dataset, now: answer.headers.get("Date") });
  for (const section of page.querySelectorAll("[data-section]")) show(section.id, section.childNodes);
  found("partly", restarted);
  return true;
}

function greet({ epoch, edition, now }) { // returns whether the sidecar was restarted
  outdated = edition !== root.dataset.edition;
  if (renew()) return false;
  skew = Date.parse(now) - Date.now();
  const restarted = epoch !== root.dataset.epoch;
  root.dataset.epoch = epoch;
  return restarted;
}

function renew() { // not while the password is shown or awaited: it would be lost
  const due = outdated && byId("told").hidden && !form.querySelector("button").disabled;
  if (due) location.reload();
  return due;
}

const WAYS = { live: "live", partly: "not live: too many pages are open; refreshed every 15 s" };

function found(way, restarted = false) {
  heard = Date.now();
  lostAt = null;
  if (restarted) say(way, `${WAYS[way]}; the sidecar was restarted at ${clock(Date.now())}`);
  else if (byId("live").className !== way) say(way, WAYS[way]);
}

function lost(what) {
  lostAt ??= heard;
  say("lost", `${what} since ${clock(lostAt)}; retrying`);
}

const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });

function say(way, text) {
  const live = byId("live");
  if (live.textContent !== text) live.textContent = text;
  live.className = way;
  root.classList.toggle("stale", way === "lost");
}

const made = new WeakMap(); // each part of a section, and its source

function remember(part) {
  made.set(part, part.outerHTML ?? part.data);
}

// Keeps unchanged elements: with an element, the focus and a press of the mouse would be lost.
function change(place, parts) {
  let next = place.firstChild;
  for (const part of [...parts]) {
    remember(part);
    let same = next;
    while (same && made.get(same) !== made.get(part)) same = same.nextSibling;
    if (same) {
      while (next !== same) next = removed(next);
      next = same.nextSibling;
    } else {
      place.insertBefore(part, next);
    }
  }
  while (next) next = removed(next);
}

function parsed(section) {
  const template = document.createElement("template");
  template.innerHTML = section;
  return template.content.childNodes;
}

function removed(part) {
  const next = part.nextSibling;
  part.remove();
  return next;
}

function show(id, parts) {
  const place = byId(id);
  if (!place) return;
  const open = [...place.querySelectorAll("details")].map((each) => [each.id, each.open]);
  const value = place.querySelector("progress")?.value;
  const focused = document.activeElement?.id;
  change(place, parts);
  for (const [name, is] of open) byId(name)?.toggleAttribute("open", is);
  if (focused && document.activeElement?.id !== focused) byId(focused)?.focus({ preventScroll: true });
  const bar = place.querySelector("progress[value]");
  if (bar && value !== undefined) { // so that it glides from its old value
    const now = bar.value;
    bar.value = Math.min(value, now);
    requestAnimationFrame(() => { bar.value = now; });
  }
  if (id === "headline") document.title = `${document.querySelector(".name").textContent}: ${place.querySelector("h1").textContent}`;
  if (id === "claim" || id === "password") offer();
  tick();
}

// --- durations ------------------------------------------------------------------------------------------------------

function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 600) return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  const hours = Math.floor(seconds / 3600);
  if (hours < 48) return `${hours} h ${String(Math.floor(seconds / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const since = (time) => span(Date.now() + skew - Date.parse(time.dateTime));

function tick() {
  if (lostAt !== null) return; // the state is unknown
  for (const each of document.querySelectorAll("time[data-for]")) {
    const place = each.previousSibling; // "since ", until this turns both into "for 5 s"
    if (place) place.remove();
    each.textContent = `for ${since(each)}`;
  }
  for (const each of document.querySelectorAll("time[data-ago]")) each.textContent = `${since(each)} ago`;
}

// --- root's password ------------------------------------------------------------------------------------------------

const form = byId("form");

const passwordState = () => document.querySelector("[data-state]")?.dataset.state; // undefined: not known yet

function offer() {
  form.hidden = passwordState() !== "claimable";
  byId("trace").hidden = passwordState() !== "claimed";
}

async function ask(method, path, token) {
  const answer = await fetch(path, {
    method, headers: { Authorization: `Bearer ${token}` }, credentials: "omit", redirect: "error", cache: "no-store",
  });
  return [answer.status, await answer.json()];
}

function answered(text, tone, place = byId("answer")) {
  place.className = tone;
  place.textContent = text.replaceAll("`", "");
}

const when = (at) => `${at.slice(0, 10)} ${at.slice(11, 19)} UTC`;

function claimed({ root_password: of }) {
  return of.claimed_at ? `Claimed on ${when(of.claimed_at)} from ${of.claimed_from ?? "an unknown address"}.` : null;
}

async function fromWhere(token) {
  const [status, said] = await ask("GET", "bootstrap", token);
  return status === 200 ? claimed(said) : null;
}

async function send(event, token, request, place) { // after 401 the token stays, to be corrected
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  answered("", "", place);
  try {
    const [status, said] = await request(token.value.trim());
    if (status === 200) return said;
    if (status !== 401) token.value = "";
    if (status === 410 && said.claimed_at) {
      answered(`Claimed on ${when(said.claimed_at)} from ${said.claimed_from ?? "an unknown address"}, not by you just`
        + ` now${said.hint ? `; ${said.hint}` : ""}.`, "bad", place);
    } else {
      const { title, detail = "", hint } = said;
      answered(`${title}: ${detail}${hint && !detail.includes(hint) ? `; ${hint}` : ""}`, "bad", place);
    }
  } catch {
    answered("No response. If the password now counts as claimed, it is lost: run sidecar rotate.", "bad", place);
  } finally {
    button.disabled = false;
  }
  return null;
}

form.addEventListener("submit", async (event) => {
  const token = byId("token");
  const said = await send(event, token, (given) => ask("POST", "bootstrap/root-password", given), byId("answer"));
  if (said) {
    const given = token.value.trim();
    token.value = "";
    form.hidden = true;
    byId("told").hidden = false;
    byId("secret").value = said.password;
    byId("secret").focus();
    byId("secret").select();
    try {
      answered((await fromWhere(given)) ?? "", "good");
    } catch { /* the password is shown, which matters */ }
  }
  renew();
});

byId("trace-form").addEventListener("submit", async (event) => {
  const token = byId("trace-token");
  const place = byId("trace-answer");
  const said = await send(event, token, (given) => ask("GET", "bootstrap", given), place);
  if (said) answered(claimed(said) ?? "It has not been claimed.", "good", place);
  token.value = said ? "" : token.value;
  renew();
});

async function copy(text, button, select) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // plain HTTP from another machine: the browser offers no clipboard
    select();
    if (!document.execCommand("copy")) return;
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}
byId("copy").addEventListener("click", () => copy(byId("secret").value, byId("copy"), () => byId("secret").select()));

function forget() {
  byId("secret").value = "";
  byId("told").hidden = true;
}
byId("forget").addEventListener("click", () => { forget(); renew(); });
window.addEventListener("pagehide", () => { forget(); byId("token").value = byId("trace-token").value = ""; });

// --- commands --------------------------------------------------------------------------------------------------------

document.addEventListener("click", ({ target }) => {
  if (!target.matches(".copy")) return;
  const commands = target.parentElement.querySelector("pre");
  copy(commands.textContent, target, () => getSelection().selectAllChildren(commands));
});

// --- begin ----------------------------------------------------------------------------------------------------------

for (const place of document.querySelectorAll("div[id]")) place.childNodes.forEach(remember);
offer();
connect();
setInterval(() => {
  tick();
  if (Date.now() - Math.max(heard, begun) > SILENCE) { // the connection looks alive but is not
    lost("No data from the sidecar");
    connect();
  }
}, 1000);
