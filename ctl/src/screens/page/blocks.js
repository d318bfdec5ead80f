// The block map of each pool: a place for every block the pool can be cut into, filled as the block is, coloured by its
// owner. Pools of more places than can be drawn show what is claimed, in order, with a mark where there is a gap.

import { bare, count, cut, el, hue, large, percent, plural, put } from "./draw.js";
import { again, known } from "./app.js";

const LABEL = 112;
const LEAST = 17;
const GAP = 3;
const MOST = 4096;
let paint = "node";
let filter = "";

/** Listens to the tools above the maps. */
export function watchBlocks() {
  const input = document.getElementById("block-filter");
  input.addEventListener("input", () => { filter = input.value.trim().toLowerCase(); again(); });
  for (const radio of document.querySelectorAll("input[name=paint]")) radio.addEventListener("change", () => { paint = radio.value; again(); });
  const maps = document.getElementById("pools");
  maps.addEventListener("pointerover", (event) => light(maps, event.target.closest?.("[data-owner]")?.dataset.owner));
  maps.addEventListener("pointerleave", () => light(maps));
  maps.addEventListener("keydown", step);
}

/** Whatever belongs to the same node stands out. */
function light(maps, owner) {
  for (const block of maps.querySelectorAll(".b")) block.classList.toggle("off", filter ? block.dataset.found !== "true" : Boolean(owner) && block.dataset.owner !== owner);
}

/** Arrow keys go from block to block. */
function step(event) {
  const block = event.target.closest?.(".b");
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!block || (!move && event.key !== "Home" && event.key !== "End")) return;
  event.preventDefault();
  const own = [...block.parentNode.querySelectorAll(".b")];
  const at = own.indexOf(block);
  const next = event.key === "Home" ? own[0] : event.key === "End" ? own.at(-1) : own[Math.max(0, Math.min(own.length - 1, at + move))];
  block.setAttribute("tabindex", -1);
  next.setAttribute("tabindex", 0);
  next.focus();
}

const total = (block) => block.used + block.free;
const fullness = (block) => (total(block) ? block.used / total(block) : 0);

/** Whether a block is what is looked for: by its node, by its network, or by an address in it. */
function found(block) {
  if (!filter) return true;
  if (block.node.toLowerCase().includes(filter) || block.cidr.includes(filter)) return true;
  const address = v4(filter);
  const [network, length] = block.cidr.split("/");
  const first = v4(network);
  return address !== null && first !== null && address >= first && address < first + 2 ** (32 - length);
}

function v4(text) {
  const parts = text.split(".");
  if (parts.length !== 4 || parts.some((part) => !/^\d{1,3}$/.test(part) || part > 255)) return null;
  return parts.reduce((sum, part) => sum * 256 + Number(part), 0);
}

const dotted = (number) => [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join(".");

/** The network of a place of an IPv4 pool. */
function networkOf(pool, at) {
  const first = v4(pool.cidr.split("/")[0]);
  return first === null ? "" : `${dotted(first + at * 2 ** (32 - pool.blockLen))}/${pool.blockLen}`;
}

function cell(block, x, y, size, colour, tabbable) {
  const full = fullness(block);
  const height = block.used ? Math.max(2, Math.round((size - 4) * full)) : 0;
  const words = `${block.cidr}\n${block.owned ? `node ${block.node}` : `${block.node}, which has no agent`}\n${count(block.used)} used, ${count(block.free)} free${total(block) ? ` (${percent(full)})` : ""}`;
  const g = el("g", { class: `b ${full >= 0.9 ? "full" : ""} ${block.owned ? "" : "lost"} ${found(block) ? "" : "off"}`, transform: `translate(${x} ${y})`, tabindex: tabbable ? 0 : -1, role: "img", "aria-label": words.replaceAll("\n", ", "), tip: words, "data-id": `b-${block.cidr}`, "data-block": block.cidr, "data-owner": block.node, "data-found": filter ? found(block) : null });
  const back = el("rect", { class: "cell", width: size, height: size, rx: 4 });
  back.style.fill = `color-mix(in srgb, ${colour} 20%, var(--card))`;
  if (full < 0.9 && block.owned) back.style.stroke = `color-mix(in srgb, ${colour} 70%, var(--card))`;
  const level = el("rect", { x: 2, y: size - 2 - height, width: size - 4, height, rx: 2 });
  level.style.fill = colour;
  g.append(back, level);
  return g;
}

function colourOf(block, colours) {
  if (!block.owned) return "var(--bad)";
  if (paint === "full") return fullness(block) >= 0.9 ? "var(--warn)" : "var(--fill)";
  return colours.get(block.node) ?? "var(--fill)";
}

/** Every place of the pool. */
function wholeMap(pool, blocks, colours, room) {
  const columns = Math.min(pool.places, 2 ** Math.floor(Math.log2(Math.max(8, (room - LABEL) / LEAST))));
  const step = Math.min(26, Math.floor((room - LABEL) / columns));
  const size = step - GAP;
  const rows = Math.ceil(pool.places / columns);
  const id = `free-${pool.name}`;
  const svg = el("svg", { width: LABEL + columns * step, height: rows * step + 4, role: "group", "aria-label": `Blocks of pool ${pool.name}: arrow keys go through them` },
    el("defs", {}, el("pattern", { id, width: step, height: step, patternUnits: "userSpaceOnUse", x: LABEL, y: 1 }, el("rect", { class: "free", x: 0.5, y: 0.5, width: size - 1, height: size - 1, rx: 4 }))));
  for (let row = 0; row < rows; row += rows > 40 ? 4 : rows > 16 ? 2 : 1) svg.append(el("text", { x: 0, y: row * step + size / 2 + 5 }, networkOf(pool, row * columns).split("/")[0]));
  const last = pool.places - (rows - 1) * columns;
  const free = (y, width, height) => {
    const rect = el("rect", { x: LABEL, y, width, height, fill: `url(#${id})` });
    rect.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = Math.floor((event.clientY - box.top - 1) / step) * columns + Math.floor((event.clientX - box.left - LABEL) / step);
      rect.dataset.tip = `${networkOf(pool, Math.max(0, at))}\nnot claimed`;
    });
    return rect;
  };
  if (rows > 1) svg.append(free(1, columns * step, (rows - 1) * step));
  svg.append(free(1 + (rows - 1) * step, last * step, step));
  blocks.forEach((block, index) => svg.append(cell(block, LABEL + (block.place % columns) * step, 1 + Math.floor(block.place / columns) * step, size, colourOf(block, colours), index === 0)));
  return svg;
}

/** Only what is claimed. */
function claimedMap(pool, blocks, colours, room) {
  const step = 22;
  const columns = Math.max(8, Math.floor(room / step));
  const drawn = [];
  let at = 0;
  let before = null;
  for (const block of blocks) {
    if (before !== null && block.place > before + 1) {
      const gap = block.place - before - 1;
      drawn.push(el("text", { x: (at % columns) * step + 6, y: Math.floor(at / columns) * step + 14, tip: `${plural(1, "gap")} of ${large(gap)} places that nobody claims` }, "…"));
      at += 1;
    }
    drawn.push(cell(block, (at % columns) * step, 1 + Math.floor(at / columns) * step, step - GAP, colourOf(block, colours), before === null));
    before = block.place;
    at += 1;
  }
  return el("svg", { width: columns * step, height: Math.max(1, Math.ceil(at / columns)) * step + 4, role: "group", "aria-label": `Claimed blocks of pool ${pool.name}: arrow keys go through them` }, drawn);
}

function meter(part, tone) {
  return el("span", { class: "meterline", role: "img", "aria-label": percent(part) }, el("i", { class: tone, "width%": Math.min(100, part * 100) }));
}

function poolCard(pool, blocks, colours, room) {
  const claimed = pool.claimed;
  const huge = pool.places > MOST;
  const inBlocks = pool.used + pool.free ? pool.used / (pool.used + pool.free) : 0;
  const map = blocks.length || !huge ? (huge ? claimedMap : wholeMap)(pool, blocks, colours, room) : null;
  const nodes = new Map();
  for (const block of blocks) nodes.set(block.node, (nodes.get(block.node) ?? 0) + 1);
  const owners = paint === "node" && nodes.size > 0 && nodes.size <= 12;
  return el("article", { class: "card pool", "data-pool": pool.name },
    el("header", {}, el("h2", {}, pool.name), el("span", { class: "mono note" }, pool.cidr), pool.ready ? null : el("span", { class: "pill bad" }, "not ready"),
      el("span", { class: "bar2" }, meter(claimed, claimed >= 0.95 ? "bad" : claimed >= 0.8 ? "warn" : ""), `${count(blocks.length)} of ${large(pool.places)} blocks claimed (${percent(claimed)})`),
      el("span", { class: "bar2" }, meter(inBlocks, ""), `${count(pool.used)} addresses used, ${count(pool.free)} free in them`)),
    el("div", { class: "map" }, map ?? el("p", { class: "note" }, "No node has claimed a block yet.")),
    huge && blocks.length ? el("p", { class: "owners" }, `The pool has ${large(pool.places)} places for blocks of /${pool.blockLen}: only those that are claimed are drawn, “…” stands for a gap.`) : null,
    owners ? el("ul", { class: "owners" }, [...nodes].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true })).map(([node, number]) => el("li", { "data-owner": node }, el("i", { background: colours.get(node) ?? "var(--bad)" }), `${cut(node, 36)} · ${number}`))) : null);
}

/** Draws the maps of all pools. */
export function drawBlocks(into) {
  const pools = [...known.pool.values()];
  if (!pools.length) {
    const words = known.summary.complete ? [el("strong", {}, "There is no IPPool yet"), "Pods get addresses from pools: deploy/examples/ippool.yaml is one."] : [el("strong", {}, "Reading the cluster…")];
    return put(into, el("div", { class: "card empty" }, words));
  }
  const names = [...known.node.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const colours = new Map(names.map((name, index) => [name, `hsl(${hue(index, names.length)} var(--s) var(--l))`]));
  const room = Math.max(300, into.clientWidth - 40);
  const mine = (pool) => [...known.block.values()].filter((block) => block.pool === pool.name).sort((a, b) => a.place - b.place);
  put(into, pools.map((pool) => poolCard(pool, mine(pool), colours, room)));
  const hits = filter ? [...known.block.values()].filter(found) : [];
  document.getElementById("block-found").textContent = filter ? `${plural(hits.length, "block")}${hits.length === 1 ? ` of ${bare(hits[0].node)}` : ""}` : "";
}
