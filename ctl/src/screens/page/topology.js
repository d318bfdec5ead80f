// The network: routers above, nodes in groups below, a line for every session while that can be read, one line for a group
// and its router beyond that. What is down is always drawn by itself.

import { ago, bare, count, cut, el, percent, plural, put, rate } from "./draw.js";

// How nodes look, by how many there are.
const CARD = { width: 176, height: 74, gap: 16, look: "card" };
const CHIP = { width: 132, height: 32, gap: 9, look: "chip" };
const TILE = { width: 24, height: 24, gap: 6, look: "tile" };
const HUB = { width: 192, height: 58 };
// A router that only one group speaks to stands in the group.
const LOCAL = { width: 126, height: 30, gap: 8 };
const INNER = { side: 14, top: 34, bottom: 14 };

/** Which pairs speak, whether they are up, and what each end says. `a` is the node that tells first. */
function pairsOf(known) {
  const pairs = new Map();
  for (const [node, own] of known.sessions) {
    const mine = `node/${node}`;
    for (const session of own) {
      // A router may be a peer by several names.
      const peer = session.router ?? session.peer;
      const [a, b] = peer.startsWith("node/") && peer < mine ? [peer, mine] : [mine, peer];
      const key = `${a}|${b}`;
      let pair = pairs.get(key);
      if (!pair) pairs.set(key, (pair = { key, a, b, up: true, why: "", said: [] }));
      pair.up &&= session.up;
      pair.said.push({ node, session });
      if (!session.up && session.error && !pair.why) pair.why = session.error;
    }
  }
  return [...pairs.values()];
}

let found = { version: -1, pairs: [] };

/** The same, found anew only when sessions have changed: a mesh has thousands. */
function pairsNow(known) {
  if (found.version !== known.sessions.version) found = { version: known.sessions.version, pairs: pairsOf(known) };
  return found.pairs;
}

function words(pair) {
  const peers = new Set(pair.said.map(({ session }) => session.peer));
  const by = (session) => (peers.size > 1 && !session.peer.startsWith("node/") ? ` of ${bare(session.peer)}` : "");
  const lines = pair.said.map(({ node, session: one }) => `${node} says${by(one)}: ${one.state} for ${ago(one.since)}${!one.up && one.error ? `, ${one.error}` : ""}`);
  return `${bare(pair.a)} – ${bare(pair.b)}\n${lines.join("\n")}`;
}

function groupsOf(nodes) {
  const groups = new Map();
  for (const node of nodes) {
    if (!groups.has(node.group)) groups.set(node.group, []);
    groups.get(node.group).push(node);
  }
  const byName = (a, b) => a.localeCompare(b, "en", { numeric: true });
  for (const own of groups.values()) own.sort((a, b) => byName(a.name, b.name));
  return [...groups.entries()].sort(([a], [b]) => byName(a, b)).map(([name, own]) => ({ name, nodes: own }));
}

/** Gives each group the routers that nobody else speaks to, and returns the others. */
function settleLocal(hubs, groups, pairs, single) {
  for (const group of groups) group.hubs = [];
  if (single || groups.length < 2) return hubs;
  const home = new Map(groups.flatMap((group) => group.nodes.map((node) => [`node/${node.name}`, group])));
  const spoken = new Map(hubs.map((hub) => [hub.name, new Set()]));
  for (const pair of pairs) {
    spoken.get(pair.b)?.add(home.get(pair.a) ?? null);
    spoken.get(pair.a)?.add(home.get(pair.b) ?? null);
  }
  const local = (hub) => spoken.get(hub.name).size === 1 && !spoken.get(hub.name).has(null);
  for (const hub of hubs.filter(local)) [...spoken.get(hub.name)][0].hubs.push(hub);
  for (const group of groups) group.hubs.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  return hubs.filter((hub) => !local(hub));
}

/** Puts groups into rows as wide as there is room, and nodes into groups. */
function place(groups, size, room, titled) {
  const top = titled ? INNER.top : INNER.bottom;
  const most = Math.max(1, Math.floor((room - 2 * INNER.side + size.gap) / (size.width + size.gap)));
  for (const group of groups) {
    const number = group.nodes.length;
    const square = size.look === "tile" ? Math.ceil(Math.sqrt(number * 2.2)) : size.look === "chip" ? Math.max(2, Math.ceil(Math.sqrt(number / 2.2))) : number;
    const share = groups.length === 1 ? most : Math.max(size.look === "tile" ? 5 : 1, square);
    group.columns = Math.min(number, most, size.look === "card" ? Math.ceil(number / Math.ceil(number / Math.min(6, most))) : groups.length === 1 ? most : share);
    const abreast = Math.min(group.hubs.length, Math.max(1, Math.floor((room - 2 * INNER.side + LOCAL.gap) / (LOCAL.width + LOCAL.gap))), 2);
    group.abreast = abreast;
    group.hubRows = abreast ? Math.ceil(group.hubs.length / abreast) : 0;
    group.top = top + (group.hubRows ? group.hubRows * (LOCAL.height + LOCAL.gap) + 12 : 0);
    const title = titled ? 24 + Math.min(group.name.length, 22) * 7.2 + 74 : 0;
    group.width = Math.min(room, Math.max(title, abreast ? 2 * INNER.side + abreast * (LOCAL.width + LOCAL.gap) - LOCAL.gap : 0, 2 * INNER.side + group.columns * (size.width + size.gap) - size.gap));
    // Nodes take the width that title and routers made.
    if (size.look === "tile") group.columns = Math.min(number, Math.floor((group.width - 2 * INNER.side + size.gap) / (size.width + size.gap)));
    const rows = Math.ceil(number / group.columns);
    group.height = group.top + INNER.bottom + rows * (size.height + size.gap) - size.gap;
  }
  const shelves = [];
  for (const group of groups) {
    const shelf = shelves.at(-1);
    if (shelf && shelf.width + 16 + group.width <= room) {
      shelf.groups.push(group);
      shelf.width += 16 + group.width;
    } else shelves.push({ groups: [group], width: group.width });
  }
  return { shelves, top };
}

function settle({ shelves, top }, size, room, from) {
  const spots = new Map();
  let y = from;
  for (const shelf of shelves) {
    let x = (room - shelf.width) / 2;
    for (const group of shelf.groups) {
      Object.assign(group, { x, y });
      const inner = group.columns * (size.width + size.gap) - size.gap;
      const hubs = group.abreast * (LOCAL.width + LOCAL.gap) - LOCAL.gap;
      group.hubs.forEach((hub, index) => spots.set(hub.name, { x: x + (group.width - hubs) / 2 + (index % group.abreast) * (LOCAL.width + LOCAL.gap), y: y + top + Math.floor(index / group.abreast) * (LOCAL.height + LOCAL.gap), width: LOCAL.width, height: LOCAL.height, local: true }));
      group.nodes.forEach((node, index) => {
        const column = index % group.columns;
        const row = Math.floor(index / group.columns);
        spots.set(`node/${node.name}`, { x: x + (group.width - inner) / 2 + column * (size.width + size.gap), y: y + group.top + row * (size.height + size.gap), width: size.width, height: size.height });
      });
      x += group.width + 16;
    }
    y += Math.max(...shelf.groups.map((group) => group.height)) + 16;
  }
  return { spots, bottom: y };
}

/** Routers stand over the nodes that talk to them. */
function placeHubs(hubs, pairs, spots, room) {
  const middle = (name) => {
    const xs = pairs.filter((pair) => pair.b === name || pair.a === name).map((pair) => spots.get(pair.a === name ? pair.b : pair.a)).filter(Boolean).map((spot) => spot.x);
    return xs.length ? xs.reduce((sum, x) => sum + x, 0) / xs.length : 0;
  };
  const sorted = hubs.map((hub) => ({ hub, x: middle(hub.name) })).sort((a, b) => a.x - b.x || a.hub.name.localeCompare(b.hub.name, "en", { numeric: true }));
  const perRow = Math.max(1, Math.floor((room + 20) / (HUB.width + 20)));
  sorted.forEach(({ hub }, index) => {
    const row = Math.floor(index / perRow);
    const inRow = Math.min(perRow, sorted.length - row * perRow);
    const pitch = Math.min(room / inRow, 320);
    spots.set(hub.name, { x: room / 2 + ((index % perRow) - (inRow - 1) / 2) * pitch - HUB.width / 2, y: 12 + row * (HUB.height + 18), ...HUB });
  });
  return Math.ceil(hubs.length / perRow) * (HUB.height + 18);
}

const bottomOf = (spot) => ({ x: spot.x + spot.width / 2, y: spot.y + spot.height });
const topOf = (spot) => ({ x: spot.x + spot.width / 2, y: spot.y });

function hang(from, to) {
  const bend = Math.max(18, (to.y - from.y) * 0.5);
  return `M${from.x} ${from.y}C${from.x} ${from.y + bend} ${to.x} ${to.y - bend} ${to.x} ${to.y}`;
}

/** An arc between two nodes, below them when they stand side by side. */
function arc(one, other) {
  const [a, b] = [bottomOf(one), bottomOf(other)];
  if (Math.abs(a.y - b.y) < 4) {
    const depth = Math.min(64, 14 + Math.abs(a.x - b.x) * 0.09);
    return `M${a.x} ${a.y}C${a.x} ${a.y + depth} ${b.x} ${b.y + depth} ${b.x} ${b.y}`;
  }
  const [high, low] = a.y < b.y ? [one, other] : [other, one];
  return hang(bottomOf(high), topOf(low));
}

function edge(path, kind, pair, far, width) {
  const line = el("path", { class: `t-edge ${kind} ${far ? "t-far" : ""}`, d: path, "data-edge": pair.key, "data-up": String(pair.up ?? ""), "stroke-width": width });
  if (width) line.style.strokeWidth = `${width}px`;
  return [line, el("path", { class: "t-hit", d: path, tip: pair.tip ?? words(pair) })];
}

/** One line for all sessions between a group and a router. */
function trunks(groups, hubs, pairs, spots, far) {
  const home = new Map(groups.flatMap((group) => group.nodes.map((node) => [`node/${node.name}`, group])));
  const bundles = new Map();
  for (const pair of pairs) {
    const hub = hubs.has(pair.b) ? pair.b : pair.a;
    if (!hubs.has(hub)) continue;
    const group = home.get(hub === pair.b ? pair.a : pair.b);
    if (!group) continue;
    const key = `${group.name}|${hub}`;
    if (!bundles.has(key)) bundles.set(key, { key, group, hub, all: 0, up: 0 });
    const bundle = bundles.get(key);
    bundle.all += 1;
    bundle.up += pair.up ? 1 : 0;
  }
  const drawn = [...bundles.values()].flatMap(({ key, group, hub, all, up }) => {
    const spot = spots.get(hub);
    const path = hang(bottomOf(spot), { x: group.x + group.width / 2, y: group.y });
    const kind = up === all ? "" : up === 0 ? "down" : "part";
    return edge(path, `trunk ${kind}`, { key, tip: `${group.name || "all nodes"} – ${bare(hub)}\n${up} of ${all} sessions up` }, far(hub, ...group.nodes.map((node) => `node/${node.name}`)), Math.min(11, 2 + Math.sqrt(all) * 1.4));
  });
  return drawn;
}

/** The reason of a session that is down, on its line. */
function reason(pair, spots) {
  const [one, other] = [spots.get(pair.a), spots.get(pair.b)];
  const text = cut(pair.why, 42);
  const width = text.length * 6.5 + 18;
  const side = Math.abs(one.y - other.y) < 4;
  const x = (one.x + one.width / 2 + other.x + other.width / 2) / 2;
  const y = side ? one.y + one.height + 24 : (Math.min(one.y + one.height, other.y + other.height) + Math.max(one.y, other.y)) / 2;
  return el("g", { class: "t-why", tip: words(pair) }, el("rect", { x: x - width / 2, y: y - 11, width, height: 22, rx: 11 }), el("text", { x, y: y + 4, "text-anchor": "middle" }, text));
}

function health(node) {
  if (node.ready === false || node.errors) return "bad";
  return node.ready === null || node.sessionsUp < node.sessions || node.findings ? "warn" : "ok";
}

function says(node, rates) {
  const state = node.ready === null ? "has not reported" : node.ready ? "ready" : "not ready";
  const live = rates ? `\n+${rate(rates.started)} −${rate(rates.stopped)} pods/s, ${count(rates.routes)} routes` : "";
  return `${node.name}\n${state}, ${node.sessionsUp} of ${plural(node.sessions, "session")} up\n${plural(node.blocks, "block")}, ${count(node.used)} addresses used, ${count(node.free)} free${live}`;
}

function drawNode(node, spot, size, rates, mark, choose) {
  const { x, y, width, height } = spot;
  const id = `node/${node.name}`;
  const state = health(node);
  const full = node.used + node.free ? node.used / (node.used + node.free) : 0;
  const act = (event) => { if (event.type === "click" || event.key === "Enter" || event.key === " ") { event.preventDefault?.(); choose(id); } };
  const g = el("g", { class: `t-node ${size.look} ${state} ${mark}`, transform: `translate(${x} ${y})`, tabindex: 0, role: "button", "data-id": id, "data-node": node.name, "data-state": state, "aria-label": says(node, rates).replaceAll("\n", ", "), tip: says(node, rates), onclick: act, onkeydown: act });
  g.append(el("rect", { class: "b", width, height, rx: size.look === "tile" ? 6 : 10 }));
  if (size.look === "tile") {
    const inner = Math.round((height - 8) * full);
    g.append(el("rect", { class: "u", x: 4, y: height - 4 - inner, width: width - 8, height: inner, rx: 2 }));
  } else if (size.look === "chip") {
    g.append(el("rect", { class: "stripe", x: 9, y: 12, width: 8, height: 8, rx: 4 }), el("text", { class: "name", x: 25, y: 21 }, cut(node.name, 13)));
  } else {
    g.append(el("rect", { class: "stripe", x: 0, y: 10, width: 4, height: height - 20, rx: 2 }),
      el("text", { class: "name", x: 15, y: 24 }, cut(node.name, size.width > 180 ? 21 : 18)), el("text", { class: "s", x: 15, y: 41 }, cut(node.addresses[0] ?? "no address", 24)),
      el("text", { class: `s ${node.sessionsUp < node.sessions ? "bad" : ""}`, x: 15, y: 57 }, `${node.sessionsUp}/${node.sessions} up`),
      el("text", { class: "s", x: width - 12, y: 57, "text-anchor": "end" }, rates && rates.started + rates.stopped > 0 ? `+${rate(rates.started)} −${rate(rates.stopped)}/s` : `${percent(full)} used`),
      el("rect", { class: "meter", x: 15, y: 64, width: width - 27, height: 3, rx: 1.5 }), el("rect", { class: "level", x: 15, y: 64, width: full ? Math.max(3, (width - 27) * full) : 0, height: 3, rx: 1.5 }));
  }
  return g;
}

function drawHub(hub, spot, mark, choose) {
  const act = (event) => { if (event.type === "click" || event.key === "Enter" || event.key === " ") { event.preventDefault?.(); choose(hub.name); } };
  const bad = hub.up < hub.all;
  const tip = `${bare(hub.name)}${hub.node ? ", route reflector" : ""}\n${hub.up} of ${plural(hub.all, "session")} up\n${hub.addresses.slice(0, 4).join(", ")}`;
  if (spot.local) {
    return el("g", { class: `t-router ${bad ? "bad" : ""} ${mark}`, transform: `translate(${spot.x} ${spot.y})`, tabindex: 0, role: "button", "data-id": hub.name, "data-router": bare(hub.name), "aria-label": tip.replaceAll("\n", ", "), tip, onclick: act, onkeydown: act },
      el("rect", { class: "b", width: spot.width, height: spot.height, rx: 9 }), el("text", { class: "name", x: 11, y: 20 }, cut(bare(hub.name), 10)), el("text", { class: `s ${bad ? "bad" : ""}`, x: spot.width - 10, y: 20, "text-anchor": "end" }, `${count(hub.up)}/${count(hub.all)}`));
  }
  return el("g", { class: `t-router ${bad ? "bad" : ""} ${mark}`, transform: `translate(${spot.x} ${spot.y})`, tabindex: 0, role: "button", "data-id": hub.name, "data-router": bare(hub.name), "aria-label": tip.replaceAll("\n", ", "), tip, onclick: act, onkeydown: act },
    el("rect", { class: "b", width: spot.width, height: spot.height, rx: 12 }),
    el("path", { class: "i", d: "M26 20v18M17 29h18M26 20l-3 3m3-3 3 3M26 38l-3-3m3 3 3-3M17 29l3-3m-3 3 3 3M35 29l-3-3m3 3-3 3" }),
    el("text", { class: "name", x: 48, y: 26 }, cut(bare(hub.name), 16)),
    el("text", { class: `s ${bad ? "bad" : ""}`, x: 48, y: 43 }, `${hub.asNumber ? `AS ${hub.asNumber} · ` : ""}${count(hub.up)}/${count(hub.all)} up`));
}

function nothing(known) {
  if (!known.summary.complete) return el("div", { class: "empty" }, el("strong", {}, "Reading the cluster…"));
  return el("div", { class: "empty" }, el("strong", {}, "No node runs an agent of Manx yet"), "Nodes appear here when their agents describe them: look at ", el("code", {}, "kubectl -n manx-system get pods"));
}

/** What the whole speaks, in words. */
function meshNote(inner, hubs) {
  if (inner.length) {
    const up = inner.filter((pair) => pair.up).length;
    return `${count(up)} of ${count(inner.length)} node-to-node sessions up`;
  }
  return hubs.length ? `every node speaks to ${plural(hubs.length, "router")}` : "no sessions yet";
}

/** Draws the whole network into an element. */
export function drawTopology(into, note, known, chosen, choose) {
  const all = [...known.node.values()];
  if (!all.length) return void (put(into, nothing(known)), (note.textContent = ""));
  const pairs = pairsNow(known);
  const reflectors = all.filter((node) => node.reflector);
  const plain = reflectors.length < all.length ? all.filter((node) => !node.reflector) : all;
  const lifted = plain.length < all.length ? reflectors : [];
  const hubs = [
    ...[...known.router.values()].map((router) => ({ name: router.name, asNumber: router.asNumber, addresses: router.addresses, up: router.sessionsUp, all: router.sessions })),
    ...lifted.map((node) => ({ name: `node/${node.name}`, node, asNumber: node.asNumber, addresses: node.addresses, up: node.sessionsUp, all: node.sessions })),
  ];
  const size = all.length <= 4 ? { ...CARD, width: 200, gap: 52 } : all.length <= 12 ? CARD : all.length <= 48 ? CHIP : TILE;
  const room = Math.max(into.clientWidth - 20, 340);
  const groups = groupsOf(plain);
  const titled = groups.length > 1;
  const single = all.length <= 24;
  const high = settleLocal(hubs, groups, pairs, single);
  const shelves = place(groups, size, room, titled);
  const rough = settle(shelves, size, room, 0);
  const hubHeight = placeHubs(high, pairs, rough.spots, room);
  const { spots, bottom } = settle(shelves, size, room, high.length ? hubHeight + (single ? 92 : 72) : 12);
  placeHubs(high, pairs, spots, room);

  const names = new Set(hubs.map((hub) => hub.name));
  const drawable = pairs.filter((pair) => spots.has(pair.a) && spots.has(pair.b));
  const outer = drawable.filter((pair) => names.has(pair.a) || names.has(pair.b));
  const inner = drawable.filter((pair) => !names.has(pair.a) && !names.has(pair.b));
  const near = chosen && spots.has(chosen) ? new Set(drawable.filter((pair) => pair.a === chosen || pair.b === chosen).flatMap((pair) => [pair.a, pair.b]).concat(chosen)) : null;
  const far = (...ends) => near && !ends.includes(chosen);
  const lines = [];
  if (!single) lines.push(...trunks(groups, new Set(high.map((hub) => hub.name)), outer, spots, far));
  for (const pair of outer) {
    if (!single && pair.up && !(chosen && (pair.a === chosen || pair.b === chosen))) continue;
    const hub = names.has(pair.b) ? pair.b : pair.a;
    const other = hub === pair.b ? pair.a : pair.b;
    const path = names.has(other) ? arc(spots.get(hub), spots.get(other)) : hang(bottomOf(spots.get(hub)), topOf(spots.get(other)));
    lines.push(...edge(path, pair.up ? "" : "down", pair, far(pair.a, pair.b)));
  }
  const few = all.length <= 9 && groups.length === 1 && groups[0].columns === groups[0].nodes.length;
  const alone = lostOf(inner, few ? Infinity : LOST);
  const drawn = (one) => few || one.a === chosen || one.b === chosen || (!one.up && !alone.has(one.a) && !alone.has(one.b));
  for (const pair of inner.filter(drawn).slice(0, 600)) {
    lines.push(...edge(arc(spots.get(pair.a), spots.get(pair.b)), pair.up ? "mesh" : "mesh down", pair, far(pair.a, pair.b)));
  }
  const rings = few ? [] : [drawMesh(inner, plain.length, groups, room), ...drawLost(alone, spots)];
  const down = drawable.filter((pair) => !pair.up && pair.why);
  const reasons = down.length <= 3 && single ? down.map((pair) => reason(pair, spots)) : [];
  const depth = few && inner.length ? 40 : rings[0] ? 34 : 8;
  const mark = (id) => (id === chosen ? "chosen" : near && !near.has(id) ? "t-far" : "");
  const svg = el("svg", { width: room, height: bottom + depth, viewBox: `0 0 ${room} ${bottom + depth}`, role: "group", "aria-label": `${plural(all.length, "node")} and ${plural(known.router.size, "router")}` },
    groups.map((group) => drawGroup(group, titled)), rings, el("g", {}, lines),
    hubs.map((hub) => drawHub(hub, spots.get(hub.name), mark(hub.name), choose)),
    plain.map((node) => drawNode(node, spots.get(`node/${node.name}`), size, known.rates.get(node.name)?.[0], mark(`node/${node.name}`), choose)), reasons);
  put(into, svg);
  note.textContent = meshNote(inner, hubs);
}

// A node that misses so many of its sessions with other nodes is marked, in place of a line for each.
const LOST = 5;

/** How many sessions with other nodes each node misses, of those that miss many; the other ends of theirs do not count. */
function lostOf(inner, many) {
  const tally = new Map();
  const down = inner.filter((pair) => !pair.up);
  const add = (id, by) => tally.set(id, (tally.get(id) ?? 0) + by);
  for (const pair of down) (add(pair.a, 1), add(pair.b, 1));
  const alone = new Map();
  for (const [id, lost] of [...tally].sort((a, b) => b[1] - a[1])) {
    if (tally.get(id) < many) continue;
    alone.set(id, lost);
    for (const pair of down) if (pair.a === id || pair.b === id) add(pair.a === id ? pair.b : pair.a, -1);
  }
  return alone;
}

function drawLost(alone, spots) {
  return [...alone].map(([id, lost]) => {
    const { x, y, width, height } = spots.get(id);
    return el("rect", { class: "t-lost", "data-lost": lost, x: x - 4, y: y - 4, width: width + 8, height: height + 8, rx: 9, tip: `${bare(id)} misses ${plural(lost, "session")} with other nodes` });
  });
}

/** Every node speaks to every other: one ring around them says so, and a line is drawn for what is down. */
function drawMesh(inner, nodes, groups, room) {
  if (nodes < 3 || inner.length < 0.9 * ((nodes * (nodes - 1)) / 2)) return null;
  const down = inner.filter((pair) => !pair.up).length;
  const [left, right] = [Math.min(...groups.map((group) => group.x)), Math.max(...groups.map((group) => group.x + group.width))];
  const [top, bottom] = [Math.min(...groups.map((group) => group.y)), Math.max(...groups.map((group) => group.y + group.height))];
  const [x, width] = [Math.max(2, left - 8), Math.min(room - 4, right - left + 16)];
  const text = `full mesh · ${count(inner.length)} sessions${down ? ` · ${count(down)} down` : ""}`;
  return el("g", { class: `t-mesh ${down ? "bad" : ""}`, "data-mesh": inner.length, "data-down": down },
    el("rect", { x, y: top - 8, width, height: bottom - top + 34, rx: 20 }), el("text", { x: x + width / 2, y: bottom + 17, "text-anchor": "middle" }, text));
}

function drawGroup(group, titled) {
  const up = group.nodes.reduce((sum, node) => sum + node.sessionsUp, 0);
  const all = group.nodes.reduce((sum, node) => sum + node.sessions, 0);
  const room = Math.max(6, Math.floor((group.width - 28 - 74) / 7.2));
  return el("g", { class: "t-group", transform: `translate(${group.x} ${group.y})`, "data-group": group.name },
    el("rect", { width: group.width, height: group.height, rx: 14 }),
    titled ? [el("text", { x: 14, y: 22 }, cut(group.name || "elsewhere", room)), el("text", { class: `c ${up < all ? "bad" : ""}`, x: group.width - 14, y: 22, "text-anchor": "end" }, `${count(up)}/${count(all)} up`)] : []);
}
