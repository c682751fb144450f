"use strict";
// Everything shown is set as text, never as markup: names come from devices.
const at = (id) => document.getElementById(id);
let token = "";

async function ask(path) {
  const headers = token ? { Authorization: "Bearer " + token } : {};
  const answer = await fetch("/api/v1/" + path, { headers, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) {
    at("login").hidden = false;
    throw new Error("a token is needed to read");
  }
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer.json();
}

function make(tag, text, name) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
}

function list(id, pairs) {
  at(id).replaceChildren(...pairs.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

function span(seconds) {
  if (seconds < 60) return seconds + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min " + (seconds % 60) + " s";
  if (seconds < 86400) return Math.floor(seconds / 3600) + " h " + Math.floor((seconds / 60) % 60) + " min";
  return Math.floor(seconds / 86400) + " d " + Math.floor((seconds / 3600) % 24) + " h";
}

const ago = (seconds) => span(Math.max(0, Math.round(Date.now() / 1000) - seconds)) + " ago";
const number = (value) => value.toLocaleString("en");

function showHub(hub) {
  at("host").textContent = hub.host;
  at("state").textContent = hub.status + (hub.reason ? ": " + hub.reason : "");
  at("state").className = hub.status;
  const left = hub.token_expires_in_s;
  list("hub", [
    ["token", left === null ? "none that the hub holds valid" : span(left) + " left, from " + hub.token_from],
    ["next renewal", hub.token_renews_in_s === null ? "now" : "in " + span(hub.token_renews_in_s)],
    ["connections", hub.connections_ready + " of " + hub.connections_wanted + " with a valid token"],
  ]);
  at("refuses").replaceChildren(...hub.refuses.map((refused) => make("li",
    refused.says + " (" + refused.cause + " " + refused.code + ", " + number(refused.count) + " times): " + refused.fix)));
}

function showOverview(seen) {
  list("credentials", [["connected", number(seen.connected)],
    ...seen.credentials.map(([name, count]) => [name, number(count)])]);
  const last = seen.history[seen.history.length - 1];
  if (!last) {
    list("now", [["first figures", "ten seconds after the start"]]);
    return;
  }
  const ms = (value) => value === null ? "–" : value.toFixed(1) + " ms";
  list("now", [
    ["accepted", last.accepted_per_s.toFixed(1) + " /s"],
    ["refused", last.refused_per_s.toFixed(1) + " /s"],
    ["latency", "median " + ms(last.p50_ms) + ", 99 % under " + ms(last.p99_ms)],
  ]);
  const peak = Math.max(1, ...seen.history.map((slot) => slot.accepted_per_s));
  const x = (slot) => 600 - (last.at - slot.at) / 6;
  const y = (slot) => 118 - slot.accepted_per_s / peak * 112;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", seen.history.map((slot, n) => (n ? "L" : "M") + x(slot).toFixed(1) + " " + y(slot).toFixed(1)).join(""));
  const chart = at("chart");
  chart.replaceChildren(chart.querySelector("title"), path);
  at("peak").textContent = "(top " + peak.toFixed(1) + ")";
}

function whoOf(cause) {
  const id = cause.client_id || cause.identity || cause.source;
  const button = make("button", id, "id");
  button.type = "button";
  button.addEventListener("click", () => { at("id").value = id; explain(id); });
  return button;
}

function showCauses(causes) {
  at("causes").replaceChildren(...causes.slice(0, 50).map((cause) => {
    const row = make("tr");
    const who = make("td");
    who.append(whoOf(cause));
    row.append(make("td", ago(cause.at)), make("td", number(cause.count)),
      make("td", cause.reason + (cause.code ? " (" + cause.code + ")" : "")), who, make("td", cause.fix));
    return row;
  }));
}

function oneCause(cause) {
  const box = make("div", undefined, "cause");
  box.append(make("strong", cause.what + ": " + cause.reason + (cause.code ? " (IoT Hub " + cause.code + ")" : "")));
  const facts = make("dl");
  for (const [name, value] of [["when", (cause.count === 1 ? "once, " : number(cause.count) + " times, last ") + ago(cause.at)], ["says", cause.text],
    ["identity", cause.identity], ["client id", cause.client_id], ["from", cause.source], ["rule", cause.rule],
    ["expected", cause.expected], ["got", cause.got], ["fix", cause.fix]]) {
    if (value) facts.append(make("dt", name), make("dd", value));
  }
  box.append(facts);
  if (cause.hint) box.append(make("code", cause.hint));
  return box;
}

async function explain(id) {
  const to = at("device");
  try {
    const path = "devices/" + encodeURIComponent(id);
    const device = await ask(path);
    const causes = await ask(path + "/causes");
    const facts = make("dl");
    const live = device.connection;
    const known = live ? [["connected", span(live.connected_s)], ["from", live.source + " at listener " + live.listener],
      ["credential", live.credential + " (" + live.identity + ")"], ["admitted by", live.rule],
      ["may", live.allow.join(", ")], ["accepted", number(live.accepted)], ["refused", number(live.refused)],
      ["commands", number(live.commands)]] : [["connected", "not here"]];
    if (device.blocked_s !== null) known.push(["kept out for", span(device.blocked_s)]);
    for (const [name, value] of known) facts.append(make("dt", name), make("dd", value));
    to.replaceChildren(make("h3", device.device), facts, ...causes.map(oneCause));
  } catch (error) {
    to.replaceChildren(make("p", error.message));
  }
}

async function refresh() {
  try {
    const [hub, seen, causes] = await Promise.all([ask("hub"), ask("overview"), ask("causes")]);
    showHub(hub);
    showOverview(seen);
    showCauses(causes);
    const page = document.documentElement;
    page.dataset.loadedMs = page.dataset.loadedMs || Math.round(performance.now());
  } catch (error) {
    at("state").textContent = error.message;
    at("state").className = "unavailable";
  }
}

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  at("token").value = "";
  at("login").hidden = true;
  refresh();
});
at("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = at("id").value.trim();
  if (id) explain(id);
});
const asked = new URLSearchParams(location.search).get("id");
if (asked) { at("id").value = asked; explain(asked); }
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 5000);
