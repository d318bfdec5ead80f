// Tables of nodes and sessions: ordered by any column, filtered, what is down first.

import { ago, count, cut, el, octets, percent, plural, put, rate } from "./draw.js";
import { again, known } from "./app.js";

const MOST = 400;
const tables = {
  node: { sort: null, back: false, filter: "" },
  session: { sort: null, back: false, filter: "", down: false },
};

/** Listens to the tools above the tables. */
export function watchTables() {
  for (const [name, table] of Object.entries(tables)) {
    const input = document.getElementById(`${name}-filter`);
    input.addEventListener("input", () => { table.filter = input.value.trim().toLowerCase(); again(); });
  }
  const down = document.getElementById("session-down");
  down.addEventListener("change", () => { tables.session.down = down.checked; again(); });
}

const plain = (text, value = text, more = {}) => ({ text, value, ...more });
const number = (value, text = count(value), more = {}) => ({ text, value, right: true, ...more });
const live = (value, text) => (value === undefined ? number(-1, "·", { dim: true }) : number(value, text(value), { dim: value === 0 }));
const smaller = (a, b) => (typeof a === "number" && typeof b === "number" ? b - a : String(a).localeCompare(String(b), "en", { numeric: true }));

function draw(name, columns, rows) {
  const table = tables[name];
  const kept = rows.filter((row) => !table.filter || row.words().includes(table.filter));
  // What is in a row is worked out for those that are ordered by it, or drawn: of a mesh there are thousands.
  if (table.sort !== null) for (const row of kept) row.value = row.cells()[table.sort].value;
  if (table.sort !== null) kept.sort((a, b) => smaller(a.value, b.value));
  else kept.sort((a, b) => b.bad - a.bad);
  if (table.back) kept.reverse();
  const order = (index) => () => {
    table.back = table.sort === index && !table.back;
    table.sort = index;
    again();
  };
  const head = columns.map((column, index) => el("th", { scope: "col", class: column.right ? "r" : "", "aria-sort": table.sort === index ? (table.back ? "ascending" : "descending") : null },
    el("button", { type: "button", "data-id": `h-${index}`, onclick: order(index) }, `${column.name}${table.sort === index ? (table.back ? " ↑" : " ↓") : ""}`)));
  const body = kept.slice(0, MOST).map((row) => el("tr", { class: row.bad ? "bad" : "", ...row.data() }, row.cells().map((cell) =>
    el("td", { class: [cell.right && "r", cell.bad && "bad", cell.dim && "dim", cell.mono && "mono", cell.wrap && "wrap", cell.long && "long"].filter(Boolean).join(" "), title: cell.long ? cell.text : null },
      cell.choose ? el("button", { class: "link", type: "button", "data-id": `r-${cell.text}`, onclick: cell.choose }, cut(cell.text, 44)) : cell.text))));
  if (!kept.length) body.push(el("tr", {}, el("td", { class: "empty", colspan: columns.length }, known.summary.complete ? (table.filter || table.down ? "Nothing like that." : "There are none yet.") : "Reading the cluster…")));
  put(document.getElementById(`${name}-table`), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body));
  const note = kept.length > MOST ? `the first ${count(MOST)} of ${count(kept.length)}` : kept.length < rows.length ? `${count(kept.length)} of ${count(rows.length)}` : plural(rows.length, name);
  document.getElementById(`${name}-found`).textContent = note;
}

const left = (name) => ({ name });
const right = (name) => ({ name, right: true });

/** Since when a node has not answered, and why. */
function silence(node) {
  const age = node.silentSince ? `no answer for ${ago(node.silentSince)}` : "";
  return [age || (node.away ? "not asked" : ""), node.away].filter(Boolean).join(": ");
}

/** The nodes. */
export function drawNodes(_, choose) {
  const columns = [left("Node"), left("Where"), left("Address"), left("Ready"), right("Sessions"), right("Blocks"), right("Used"), right("Free"), right("Pods started/s"), right("stopped/s"), right("Routes"), right("Changes/s"), right("Put right"), right("Memory"), right("CPU"), left("Remarks")];
  draw("node", columns, [...known.node.values()].map((node) => {
    const [rates] = known.rates.get(node.name) ?? [{}];
    const short = node.sessionsUp < node.sessions;
    const bad = short || node.ready !== true || node.findings > 0;
    const cells = () => [
      plain(node.name, node.name, { choose: () => choose(`node/${node.name}`), long: true }), plain(node.group, node.group, { long: true }), plain(node.addresses.join(", "), node.addresses[0] ?? "", { mono: true }),
      plain(node.ready === null ? "not reported" : node.ready ? "yes" : "no", String(node.ready), { bad: node.ready !== true }),
      number(node.sessionsUp - node.sessions, `${node.sessionsUp}/${node.sessions}`, { bad: short }), number(node.blocks), number(node.used), number(node.free),
      live(rates.started, rate), live(rates.stopped, rate), live(rates.routes, count), live(rates.changes, rate), live(rates.drift, count), live(rates.memory, octets), live(rates.cpu, percent),
      plain(silence(node) || (node.reflector ? "route reflector" : ""), "", { dim: true, wrap: Boolean(node.away) }),
    ];
    return { cells, bad, words: () => `${node.name} ${node.group} ${node.addresses.join(" ")} ${node.version} ${node.away ?? ""}`.toLowerCase(), data: () => ({ "data-row": node.name }) };
  }));
}

/** The sessions, as each of their nodes sees them. */
export function drawSessions(_, choose) {
  const columns = [left("Node"), left("Peer"), left("State"), right("For"), right("Believed"), right("Received"), right("Told"), right("Messages in/s"), right("out/s"), right("Flaps"), left("Address"), right("AS"), left("Last error")];
  const rows = [];
  for (const [node, own] of known.sessions) {
    const [rates, busy] = known.rates.get(node) ?? [];
    for (const session of own) {
      if (tables.session.down && session.up) continue;
      const [into, out] = busy?.[session.peer] ?? (rates ? [0, 0] : []);
      const cells = () => [
        plain(node, node, { choose: () => choose(`node/${node}`), long: true }), plain(session.peer, session.peer, { long: true }), plain(session.state, session.state, { bad: !session.up }),
        number(Date.now() / 1000 - session.since, ago(session.since)), number(session.accepted), number(session.received), number(session.advertised),
        live(into, rate), live(out, rate), number(session.flaps), plain(session.address, session.address, { mono: true }), number(session.asNumber ?? 0, session.asNumber ? String(session.asNumber) : ""),
        plain(session.error, session.error, { wrap: true, bad: !session.up, dim: session.up }),
      ];
      rows.push({ cells, bad: !session.up, words: () => `${node} ${session.peer} ${session.state} ${session.address} ${session.error}`.toLowerCase(), data: () => ({ "data-session": `${node} ${session.peer}`, "data-up": String(session.up) }) });
    }
  }
  draw("session", columns, rows);
}
