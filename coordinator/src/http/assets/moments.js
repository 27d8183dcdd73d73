// What happened to the run: losses, newcomers, ways back, checkpoints.

import { byId, counted, element, grouped, say, shown } from "./page.js";
import { ticks } from "./curve.js";

const SHOWN_MOMENTS = 8;

function momentLine(moment) {
  const time = moment.at === null ? "earlier" : new Date(moment.at * 1000).toLocaleTimeString([], { hour12: false });
  return element(
    "li",
    { class: moment.mood },
    element("time", {}, time),
    element("span", { class: "at" }, `update ${grouped(moment.update)}`),
    element("span", {}, moment.words),
  );
}

/** Draws what happened, the newest first. */
export function drawMoments(view) {
  const faults = Object.entries(view.status.faults).map(([kind, count]) => `${kind.replace("_", " ")} ${count}`);
  say("faults", faults.join(", "));
  const lines = view.moments.toReversed().slice(0, SHOWN_MOMENTS).map(momentLine);
  const earlier = view.forgotten + view.moments.length - lines.length;
  if (earlier > 0) lines.push(element("li", { class: "more" }, `and ${grouped(earlier)} before`));
  byId("moments").replaceChildren(...lines);
  drawCheckpoints(view);
  drawStrip(view);
}

/** The newest checkpoints, and which of them did best. */
function drawCheckpoints(view) {
  const updates = [...new Set(view.moments.filter((one) => one.kind === "checkpoint").map((one) => one.update))].slice(
    -SHOWN_MOMENTS,
  );
  const measured = view.evaluations.filter(
    (it) => it.split === "validation" && it.accuracy !== null && updates.includes(it.update),
  );
  const best = measured.reduce((one, it) => (one && one.accuracy >= it.accuracy ? one : it), null);
  const name = (update) =>
    grouped(update) + (best && best.update === update ? ` (best, accuracy ${shown(best.accuracy)})` : "");
  const [one, several] = ["Checkpoint after update", "Checkpoints after updates"];
  const words = `${updates.length === 1 ? one : several} ${updates.map(name).join(", ")}`;
  say("checkpoints", updates.length ? words : "No checkpoint so far");
}

/** From which update to which how many workers trained. */
function stretches(view) {
  const found = [];
  for (const moment of view.moments.filter((one) => one.kind === "group" || one.kind === "rewind")) {
    if (found.length && found.at(-1).to === null) found.at(-1).to = moment.update;
    if (moment.kind === "group") found.push({ from: moment.update, to: null, workers: moment.workers });
  }
  if (found.length && found.at(-1).to === null) found.at(-1).to = view.status.update;
  return found.filter(({ from, to }) => from < to);
}

/** Draws the groups of workers over the updates, with marks for what happened. */
export function drawStrip(view) {
  const width = Math.floor(byId("strip").clientWidth);
  if (!width || !view.status.total) return;
  const [left, right, total] = [4, 4, view.status.total];
  const x = (update) => left + (update / total) * (width - left - right);
  const groups = stretches(view);
  const label =
    `${counted(groups.length, "group")} of workers over the updates; ` +
    `${view.moments.filter((one) => one.mood === "lost").length} losses and ways back`;
  const svg = element("svg", { viewBox: `0 0 ${width} 62`, role: "img", "aria-label": label });
  svg.append(element("rect", { class: "ahead", x: x(0), y: 14, width: x(total) - x(0), height: 22, rx: 3 }));
  for (const { from, to, workers } of groups) {
    const wide = Math.max(1, x(to) - x(from));
    svg.append(
      element(
        "rect",
        { class: "group", x: x(from), y: 14, width: wide, height: 22 },
        element("title", {}, `${counted(workers, "worker")} from update ${from} to ${to}`),
      ),
    );
    const text = wide > 90 ? counted(workers, "worker") : String(workers);
    if (wide > 10 + 7 * text.length)
      svg.append(element("text", { class: "in middle", x: (x(from) + x(to)) / 2, y: 29 }, text));
  }
  // However many there are, a column shows one of each mood, and says all.
  const marks = new Map();
  for (const one of view.moments) {
    const place = `${one.mood} ${Math.round(x(one.update))}`;
    marks.set(place, [...(marks.get(place) ?? []), one]);
  }
  for (const same of marks.values()) {
    const [{ mood, update }] = same;
    const at = x(update).toFixed(1);
    const shape = { saved: `M${at} 36V42`, lost: `M${at} 14V9M${Number(at) - 4} 2h8l-4 7z`, joined: `M${at} 14V8` }[
      mood
    ];
    const title = same.map((one) => `update ${one.update}: ${one.words}`).join("; ");
    svg.append(element("path", { class: `mark ${mood}`, d: shape }, element("title", {}, title)));
  }
  for (const tick of ticks(0, total, Math.max(2, Math.floor(width / 70)))) {
    const place = tick === 0 ? "" : x(tick) > width - 24 ? "end" : "middle";
    svg.append(element("text", { class: place, x: place === "end" ? width - right : x(tick), y: 57 }, grouped(tick)));
  }
  byId("strip").replaceChildren(svg);
}
