// Making elements, words for numbers and times, and the one tooltip. No other file names an element by its tag's namespace.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "g", "rect", "path", "text", "circle", "title", "pattern", "defs", "line", "tspan"]);

/** An element: `el("td", {class: "r"}, "text", child)`. Text is always text: names come from the cluster. */
export function el(tag, attributes = {}, ...children) {
  const node = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "tip") node.dataset.tip = value;
    else if (name === "width%") node.style.width = `${value}%`;
    else if (name === "background") node.style.background = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Replaces what is inside, and keeps the focus on whatever has the same `data-id`. */
export function put(into, ...children) {
  const focused = into.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  into.replaceChildren(...children.flat().filter(Boolean));
  if (focused) into.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

const whole = new Intl.NumberFormat("en");
export const count = (value) => whole.format(value);

export function large(value) {
  if (value < 1e7) return whole.format(value);
  const power = Math.log2(value);
  return power > 40 ? `2^${Math.round(power)}` : new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

export const percent = (part) => (part === 0 ? "0%" : part < 0.001 ? "< 0.1%" : `${(part * 100).toFixed(part < 0.1 ? 1 : 0)}%`);
export const rate = (value) => (value >= 100 ? count(Math.round(value)) : value.toFixed(1));
export const octets = (value) => (value >= 1 << 30 ? `${(value / (1 << 30)).toFixed(1)} GiB` : `${Math.round(value / (1 << 20))} MiB`);

/** A span of time in two units at most. */
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (days) return `${days}d ${hours}h`;
  if (hours) return `${hours}h ${minutes}m`;
  return minutes ? `${minutes}m ${s % 60}s` : `${s}s`;
}

export const ago = (then) => `${span(Date.now() / 1000 - then)}`;
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const bare = (peer) => peer.replace(/^(node|peer)\//, "");
export const cut = (text, length) => (text.length > length ? `${text.slice(0, Math.ceil(length * 0.6) - 1)}…${text.slice(text.length - Math.floor(length * 0.4))}` : text);

/** A colour for each owner: well apart for few, by its number for many. */
export const hue = (index, of) => Math.round(of <= 12 ? 205 + (index * 360) / Math.max(of, 3) : (index * 137.508) % 360) % 360;

/** Shows `data-tip` of what is under the pointer or has the focus. */
export function tooltips() {
  const tip = document.getElementById("tip");
  const show = (target, x, y) => {
    const from = target.closest?.("[data-tip]");
    if (!from) return void (tip.hidden = true);
    tip.textContent = from.dataset.tip;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${y + 18 + height > innerHeight ? y - height - 10 : y + 18}px`;
  };
  document.addEventListener("pointermove", (event) => show(event.target, event.clientX, event.clientY));
  document.addEventListener("pointerleave", () => (tip.hidden = true));
  document.addEventListener("focusin", (event) => {
    if (!event.target.matches?.(":focus-visible")) return;
    const box = event.target.getBoundingClientRect();
    show(event.target, box.left, box.bottom - 10);
  });
  document.addEventListener("focusout", () => (tip.hidden = true));
}
