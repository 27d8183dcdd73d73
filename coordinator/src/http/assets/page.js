// Elements, numbers and words of the page.

export const byId = (id) => document.getElementById(id);

const SVG = new Set(["svg", "path", "rect", "text", "polyline", "polygon", "circle", "title"]);

/** An element of the page, or of a picture, with attributes and children. */
export function element(name, attributes, ...children) {
  const made = SVG.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A number with about four digits that count; as the report has it. */
export function shown(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return String(value);
  if (size < 1e-3 || size >= 1e6) {
    const [digits, power] = value.toExponential(3).split("e");
    return trimmed(digits) + "e" + Number(power);
  }
  if (size >= 1000) return value.toFixed(0);
  return trimmed(value.toFixed(size >= 10 ? 2 : 4));
}

const trimmed = (digits) => digits.replace(/\.?0+$/, "");
/** A count with its thousands apart. */
export const grouped = (count) => count.toLocaleString("en-US");
/** A count and what it counts. */
export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Seconds as a person says them; as `medley status` has it. */
export function duration(seconds) {
  const all = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const two = (count) => String(count).padStart(2, "0");
  if (hours) return `${hours} h ${two(minutes)} min`;
  return minutes ? `${minutes} min ${two(rest)} s` : `${rest} s`;
}

/** Changes the text of an element, where it is another. */
export function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

/** A name and its value in a list of such, perhaps with a note. */
export const entry = (name, value, note) =>
  element("div", {}, element("dt", {}, name), element("dd", {}, value, ...(note ? [element("small", {}, note)] : [])));

const SAID_MS = 5000;
let lastSaid = 0;
let speaking = null;

/** Says something to a screen reader, in the place of what waits: soon, or not more often than every few seconds. */
export function announce(text, soon = false) {
  clearTimeout(speaking);
  const speak = () => {
    lastSaid = Date.now();
    say("said", text);
  };
  speaking = setTimeout(speak, soon ? 200 : Math.max(500, lastSaid + SAID_MS - Date.now()));
}
