// What the page knows, kept up to date by Server-Sent Events, and which view is shown. The views draw themselves.

import { ago, bare, count, el, large, octets, percent, plural, put, rate, tooltips } from "./draw.js";
import { drawTopology } from "./topology.js";
import { drawBlocks, watchBlocks } from "./blocks.js";
import { drawNodes, drawSessions, watchTables } from "./tables.js";

const $ = (id) => document.getElementById(id);

/** Everything known: by kind, then by name. */
export const known = {
  summary: null, findings: [], node: new Map(), rates: new Map(), sessions: new Map(), router: new Map(), pool: new Map(), block: new Map(),
};
const dirty = new Set();
let shown = "overview";
let chosen = null;

function learn({ anew, set, gone }) {
  if (anew) for (const kind of Object.values(known)) if (kind instanceof Map) kind.clear();
  if (anew) for (const kind of Object.keys(known)) dirty.add(kind);
  for (const [key, value] of Object.entries(set)) {
    const slash = key.indexOf("/");
    if (slash < 0) known[key] = value;
    else known[key.slice(0, slash)].set(key.slice(slash + 1), value);
    dirty.add(slash < 0 ? key : key.slice(0, slash));
  }
  for (const key of gone) {
    const slash = key.indexOf("/");
    known[key.slice(0, slash)].delete(key.slice(slash + 1));
    dirty.add(key.slice(0, slash));
  }
  if (dirty.has("sessions")) known.sessions.version = (known.sessions.version ?? 0) + 1;
  requestAnimationFrame(draw);
}

const has = (...kinds) => kinds.some((kind) => dirty.has(kind));

function draw() {
  if (!known.summary || !dirty.size) return;
  drawSummary();
  if (has("findings", "summary")) drawFindings();
  if (shown === "overview") {
    if (has("node", "sessions", "router", "view", "summary")) drawTopology($("topology"), $("mesh"), known, chosen, choose);
    if (has("node", "sessions", "rates", "router", "choice", "view")) drawChosen();
  }
  if (shown === "blocks" && has("block", "pool", "node", "view", "summary")) drawBlocks($("pools"), known);
  if (shown === "nodes" && has("node", "rates", "view", "summary")) drawNodes(known, choose);
  if (shown === "sessions" && has("sessions", "rates", "view", "summary")) drawSessions(known, choose);
  dirty.clear();
  document.documentElement.dataset.drawn = known.summary.complete ? "complete" : "reading";
}

/** A view's data changed in a way that only the page knows of: another filter, another size. */
export function again(what = "view") {
  dirty.add(what);
  requestAnimationFrame(draw);
}

function figure(what, value, small, more, tone, curve) {
  return el("div", { class: `figure ${tone ?? ""}` },
    el("div", { class: "what" }, what), el("div", { class: "value" }, value, small ? el("small", {}, ` ${small}`) : null),
    el("div", { class: "more", title: more }, more), curve);
}

function curve(points) {
  const most = Math.max(1, ...points);
  const x = (index) => (points.length < 2 ? 100 : (index / (points.length - 1)) * 100).toFixed(1);
  const line = points.map((point, index) => `${x(index)} ${(38 - (point / most) * 34).toFixed(1)}`).join("L");
  const spark = el("svg", { class: "spark", viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true" });
  if (points.some((point) => point > 0)) spark.append(el("path", { class: "area", d: `M0 40L${line}L100 40Z` }), el("path", { class: "top", d: `M${line}` }));
  return spark;
}

function drawSummary() {
  const s = known.summary;
  const asked = s.nodesAsked > 0;
  $("cluster").textContent = s.cluster;
  $("cluster").title = s.cluster;
  document.title = `${s.complete && wrong().length ? `(${wrong().length}) ` : ""}Manx${s.cluster ? ` · ${s.cluster}` : ""}`;
  $("trouble").hidden = !s.troubles.length;
  $("trouble").textContent = s.troubles.length ? `${s.troubles.join("; ")}` : "";
  for (const [tab, number] of [["blocks", s.blocks], ["nodes", s.nodes], ["sessions", s.sessions]]) {
    const button = $(`tab-${tab}`);
    let badge = button.querySelector(".n");
    if (!badge) button.append((badge = el("span", { class: "n" })));
    badge.textContent = count(number);
  }
  const whole = (part, all) => (part === all ? (all ? "good" : "") : "bad");
  const versions = new Set([...known.node.values()].map((node) => node.version).filter(Boolean));
  const silent = !asked ? "no node can be asked" : s.nodesAsked < s.nodes ? `${s.nodesAsked}/${s.nodes} nodes answer` : null;
  put($("figures"), [
    figure("Nodes ready", count(s.nodesReady), `of ${count(s.nodes)}`, versions.size ? `version ${[...versions].sort().join(", ")}` : "", whole(s.nodesReady, s.nodes)),
    figure("Sessions up", count(s.sessionsUp), `of ${count(s.sessions)}`, plural(known.router.size, "router"), whole(s.sessionsUp, s.sessions)),
    figure("Addresses in use", count(s.used), `${count(s.free)} free`, `${plural(s.blocks, "block")} of ${plural(known.pool.size, "pool")}`),
    figure("Pods per second", asked ? `+${rate(s.rates.started)}` : "–", asked ? `−${rate(s.rates.stopped)}` : "", silent ?? `${plural(s.rates.pods, "pod")} now`, "", asked && curve(s.history.map((point) => point[0] + point[1]))),
    figure("Route changes per second", asked ? rate(s.rates.changes) : "–", "", silent ?? `${count(s.rates.routes)} of ${count(s.rates.desired)} installed, ${count(s.rates.drift)} put right`, asked && s.rates.routes < s.rates.desired ? "bad" : "", asked && curve(s.history.map((point) => point[2]))),
  ]);
}

const wrong = () => known.findings.filter((finding) => finding.weight !== "note");

function drawFindings() {
  const bad = wrong().length;
  $("wrong-count").textContent = !known.summary.complete ? "reading" : bad ? count(bad) : "nothing";
  $("wrong-count").className = `pill ${bad ? "bad" : "good"}`;
  const items = known.findings.slice(0, 100).map((finding) => {
    const node = finding.nodes?.find((name) => known.node.has(name));
    const object = node ? el("button", { class: "link object", type: "button", "data-id": `f-${finding.object}-${finding.what}`, onclick: () => choose(`node/${node}`) }, finding.object) : el("span", { class: "object" }, finding.object);
    return el("li", { class: finding.weight }, object, `: ${finding.what}`, finding.cure ? el("div", { class: "cure" }, finding.cure) : null);
  });
  if (!known.findings.length) items.push(el("li", { class: known.summary.complete ? "well" : "" }, known.summary.complete ? "Nothing: every node is ready and every session is up." : "Reading the cluster…"));
  if (known.findings.length > 100) items.push(el("li", { class: "rest" }, `and ${count(known.findings.length - 100)} more: manxctl status names all`));
  put($("findings"), items);
}

/** Chooses a node or a router, by `node/NAME` or `peer/NAME`; the same again lets go. */
export function choose(what) {
  chosen = chosen === what ? null : what;
  if (shown !== "overview") show("overview");
  dirty.add("choice").add("view");
  requestAnimationFrame(draw);
}

function drawChosen() {
  const card = $("chosen");
  const name = chosen && bare(chosen);
  const node = chosen?.startsWith("node/") && known.node.get(name);
  const router = chosen && !node && known.router.get(chosen);
  card.hidden = !node && !router;
  if (card.hidden) return;
  const from = node ? [[name, known.sessions.get(name) ?? []]] : [...known.sessions];
  const ends = (session) => node || (session.router ?? session.peer) === chosen;
  const own = from.flatMap(([at, sessions]) => sessions.filter(ends).map((session) => ({ ...session, node: at }))).sort((a, b) => a.up - b.up || a.peer.localeCompare(b.peer, "en", { numeric: true }));
  const facts = node ? nodeFacts(node) : [["Addresses", router.addresses.join(", ")], ["AS", router.asNumber], ["BGPPeers", router.peers.length > 1 ? router.peers.map(bare).join(", ") : ""], ["Sessions", `${router.sessionsUp} of ${router.sessions} up`]];
  put(card,
    el("header", {}, el("span", { class: `dot ${own.every((session) => session.up) ? "" : "bad"}` }), el("h2", {}, node ? name : bare(chosen)), el("button", { class: "quiet", type: "button", "aria-label": "Close", "data-id": "close", onclick: () => choose(chosen) }, "×")),
    el("dl", {}, facts.filter(([, value]) => value !== undefined && value !== "" && value !== null).flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, String(value))])),
    el("ul", { class: "peers", tabindex: own.length > 8 ? 0 : null, "aria-label": "Sessions" }, own.map((session) =>
      el("li", {}, el("span", { class: `dot ${session.up ? "" : "bad"}` }), el("span", { class: "name" }, node ? session.peer : session.node), el("span", { class: "note" }, `${session.up ? "" : `${session.state} `}${ago(session.since)}`), !session.up && session.error ? el("span", { class: "why" }, session.error) : null))));
}

function nodeFacts(node) {
  const [rates] = known.rates.get(node.name) ?? [];
  return [
    ["Where", node.group], ["Addresses", node.addresses.join(", ")], ["AS", node.asNumber], ["Ready", node.ready === null ? "has not reported" : node.ready ? "yes" : "no"], ["Role", node.reflector ? "route reflector" : ""],
    ["Blocks", node.blocks], ["Pods' addresses", `${count(node.used)} used, ${count(node.free)} free`], ["Pods per second", rates && `+${rate(rates.started)} −${rate(rates.stopped)}`],
    ["Routes", rates && `${count(rates.routes)} of ${count(rates.desired)}, ${rate(rates.changes)} changes/s`], ["Put right", rates && count(rates.drift)], ["Agent", rates ? `${node.version}, ${octets(rates.memory)}, ${percent(rates.cpu)} of a processor` : node.version], ["Last answer", node.silentSince && `${ago(node.silentSince)} ago`], ["Not asked", node.away],
  ];
}

function show(tab, focus) {
  shown = tab;
  for (const button of $("tabs").children) {
    const own = button.id === `tab-${tab}`;
    button.setAttribute("aria-selected", own);
    button.tabIndex = own ? 0 : -1;
    $(button.getAttribute("aria-controls")).hidden = !own;
    if (own && focus) button.focus();
  }
  try { history.replaceState(null, "", `#/${tab}`); } catch { /* the address is only a convenience */ }
  again();
}

function tabs() {
  const buttons = [...$("tabs").children];
  const name = (button) => button.id.slice(4);
  for (const button of buttons) button.addEventListener("click", () => show(name(button)));
  $("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = buttons.findIndex((button) => name(button) === shown);
    show(name(buttons[(at + step + buttons.length) % buttons.length]), true);
  });
  const asked = location.hash.slice(2);
  if (buttons.some((button) => name(button) === asked)) show(asked);
}

function theme() {
  const kept = (value) => { try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; } };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const set = () => (document.documentElement.dataset.theme = kept() ?? (system.matches ? "dark" : "light"));
  system.addEventListener("change", set);
  $("theme").addEventListener("click", () => { kept(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); set(); });
  set();
}

function live() {
  const source = new EventSource("events");
  const say = (word, tone) => { $("live").textContent = word; $("live").className = `live ${tone}`; };
  source.onopen = () => say("live", "on");
  source.onmessage = (event) => { say("live", "on"); learn(JSON.parse(event.data)); };
  source.onerror = () => say(source.readyState === EventSource.CLOSED ? "ended: start manxctl ui again" : "connection lost, trying again", "off");
}

theme();
tabs();
tooltips();
watchBlocks();
watchTables();
new ResizeObserver(() => again()).observe($("main"));
live();
