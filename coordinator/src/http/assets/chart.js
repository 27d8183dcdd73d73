// The charts: lines over updates, with what they say in words and as a table.

import { announce, byId, element, grouped, shown } from "./page.js";
import { points, powers, range, smoothed, ticks } from "./curve.js";

const MARGIN = { left: 52, right: 14, top: 8, bottom: 24 };
const TABLE_ROWS = 25;
const DESCRIBED_MS = 20000;
// The curves: a line is its name, whose buckets it is of, and which measure of theirs.
const CHARTS = [
  {
    title: "Loss",
    lines: [
      ["training", "training", 0],
      ["validation", "validation", 0],
    ],
    smooth: true,
    logs: true,
  },
  {
    title: "Validation accuracy and macro F1",
    lines: [
      ["accuracy", "validation", 1],
      ["macro F1", "validation", 2],
    ],
  },
  { title: "Learning rate", lines: [["learning rate", "training", 1]] },
  { title: "Gradient norm, before clipping", lines: [["gradient norm", "training", 2]], smooth: true, logs: true },
  { title: "Rows a second", lines: [["rows a second", "training", 3]], zero: true },
];

let view = null;
let cursor = null;

/** Makes the charts, and draws them whenever there is room. */
export function makeCharts() {
  return CHARTS.map(makeChart);
}

/** Draws what there is to see. */
export function drawCharts(seen) {
  view = seen;
  CHARTS.forEach(draw);
}

function makeChart(chart) {
  chart.described = 0;
  chart.readout = element("p", { class: "readout" });
  chart.svg = element("svg", { role: "img" });
  chart.area = element(
    "div",
    {
      class: "plot",
      tabindex: "0",
      role: "group",
      "aria-label": `${chart.title}. Left and right arrow keys move along the updates.`,
    },
    chart.svg,
  );
  chart.table = element("details", { class: "table" }, element("summary", {}, "Table"));
  chart.figure = element("figure", {}, element("figcaption", {}, chart.title), chart.readout, chart.area, chart.table);
  chart.area.addEventListener("pointermove", (event) =>
    pointAt(chart, event.clientX - chart.svg.getBoundingClientRect().left),
  );
  chart.area.addEventListener("pointerleave", () => moveTo(null));
  chart.area.addEventListener("blur", () => moveTo(null));
  chart.area.addEventListener("keydown", (event) => keyed(chart, event));
  chart.table.addEventListener("toggle", () => {
    if (chart.table.open) fillTable(chart);
  });
  new ResizeObserver(() => draw(chart)).observe(chart.area);
  return chart.figure;
}

/** What is drawn now: lines with their points and smoothed means. */
function linesOf(chart) {
  const weight = chart.smooth ? Number(byId("smoothing").value) : 0;
  return chart.lines.map((line, number) => {
    const [name, of, measure] = line;
    const found = points(view[of], measure);
    return { name, number, points: found, means: of === "training" && weight > 0 ? smoothed(found, weight) : null };
  });
}

function draw(chart) {
  if (!view) return;
  const width = Math.floor(chart.area.clientWidth);
  if (!width) return;
  const height = Math.max(150, Math.min(220, Math.round(width * 0.44)));
  const lines = linesOf(chart).filter((line) => line.points.length > 0);
  const all = lines.flatMap((line) => line.points);
  const positive = all.length > 0 && all.every((point) => point.least > 0);
  const logarithmic = Boolean(chart.logs) && byId("logarithmic").checked && positive;
  const extremes = all.flatMap((point) => [point.least, point.greatest]);
  // The same for all curves, so that one update lies at one place.
  const across = all.length
    ? range(
        [...view.training.buckets, ...view.validation.buckets].map((bucket) => bucket[1]),
        0,
      )
    : null;
  let up = range(chart.zero ? [0, ...extremes] : logarithmic ? extremes.map(Math.log10) : extremes, 0.04);
  if (up && chart.zero) up = [0, up[1]];
  chart.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.svg.replaceChildren();
  chart.frame = null;
  readOut(chart);
  if (!across) {
    chart.svg.append(element("text", { x: width / 2, y: height / 2, class: "middle" }, "nothing yet"));
    chart.svg.setAttribute("aria-label", `${chart.title}: nothing yet`);
    return;
  }
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const frame = {
    across,
    x: (update) => MARGIN.left + ((update - across[0]) / (across[1] - across[0])) * inner.width,
    y: (value) =>
      MARGIN.top + (1 - ((logarithmic ? Math.log10(value) : value) - up[0]) / (up[1] - up[0])) * inner.height,
    bottom: height - MARGIN.bottom,
  };
  chart.frame = frame;
  const levels = logarithmic ? powers(10 ** up[0], 10 ** up[1]) : ticks(up[0], up[1], 6);
  for (const tick of levels) {
    const y = frame.y(tick).toFixed(1);
    chart.svg.append(
      element("path", { class: "grid", d: `M${MARGIN.left} ${y}H${width - MARGIN.right}` }),
      element("text", { x: MARGIN.left - 8, y: Number(y) + 4, class: "end" }, shown(tick)),
    );
  }
  for (const tick of ticks(across[0], across[1], Math.max(2, Math.floor(inner.width / 60))).filter(Number.isInteger)) {
    chart.svg.append(element("text", { x: frame.x(tick), y: height - 6, class: "middle" }, grouped(tick)));
  }
  lines.forEach((line) => drawLine(chart.svg, line, frame));
  if (Date.now() - chart.described > DESCRIBED_MS) describe(chart);
  chart.svg.append(element("path", { class: "cursor", d: "" }));
  drawCursor(chart);
}

function drawLine(svg, line, frame) {
  const through = (values) =>
    values.map((value, at) => `${frame.x(line.points[at].x).toFixed(1)},${frame.y(value).toFixed(1)}`);
  const colour = `c${line.number}`;
  if (line.points.some((point) => point.least < point.greatest)) {
    const band = [
      ...through(line.points.map((point) => point.greatest)),
      ...through(line.points.map((point) => point.least)).reverse(),
    ];
    svg.append(element("polygon", { class: `band ${colour}`, points: band.join(" ") }));
  }
  const means = line.points.map((point) => point.mean);
  if (line.means) svg.append(element("polyline", { class: `line raw ${colour}`, points: through(means).join(" ") }));
  svg.append(
    element("polyline", { class: `line ${colour} d${line.number}`, points: through(line.means || means).join(" ") }),
  );
  if (line.points.length <= 30) {
    (line.means || means).forEach((mean, at) =>
      svg.append(
        element("circle", { class: `dot ${colour}`, cx: frame.x(line.points[at].x), cy: frame.y(mean), r: 2.5 }),
      ),
    );
  }
}

/** The point of a line at an update: the last one that is not after it. */
function at(line, update) {
  let found = line.points.length && update !== null ? 0 : line.points.length - 1;
  if (update !== null) while (found + 1 < line.points.length && line.points[found + 1].first <= update) found += 1;
  return found;
}

/** A line's values in words, each with its colour: at the cursor, or the last ones. */
function readOut(chart) {
  const parts = linesOf(chart)
    .filter((line) => line.points.length > 0)
    .map((line) => {
      const found = at(line, cursor);
      const raw = shown(line.points[found].mean);
      const key = element(
        "svg",
        { viewBox: "0 0 18 10", "aria-hidden": "true" },
        element("path", { class: `line c${line.number} d${line.number}`, d: "M1 5H17" }),
      );
      const text = chart.lines.length > 1 ? `${line.name} ` : "";
      return element("span", {}, key, text, element("b", {}, raw));
    });
  const when = cursor === null ? "" : `update ${grouped(cursor)}`;
  chart.readout.replaceChildren(...parts, element("span", { class: "when" }, when));
}

function drawCursor(chart) {
  const path = chart.svg.querySelector(".cursor");
  if (!path || !chart.frame) return;
  const { across, x, bottom } = chart.frame;
  const inside = cursor !== null && cursor >= across[0] && cursor <= across[1];
  path.setAttribute("d", inside ? `M${x(cursor).toFixed(1)} ${MARGIN.top}V${bottom}` : "");
}

function moveTo(update) {
  if (cursor === update) return;
  cursor = update;
  CHARTS.forEach((chart) => {
    readOut(chart);
    drawCursor(chart);
  });
}

function pointAt(chart, pixels) {
  if (!chart.frame) return;
  const { across } = chart.frame;
  const width = chart.area.clientWidth - MARGIN.left - MARGIN.right;
  const share = Math.min(1, Math.max(0, (pixels - MARGIN.left) / width));
  moveTo(Math.round(across[0] + share * (across[1] - across[0])));
}

function keyed(chart, event) {
  if (!chart.frame) return;
  const [low, high] = chart.frame.across.map(Math.round);
  const step = Math.max(1, Math.round((high - low) / (event.shiftKey ? 10 : 100)));
  const from = cursor === null ? high : cursor;
  const to = { ArrowLeft: from - step, ArrowRight: from + step, Home: low, End: high }[event.key];
  if (event.key === "Escape") moveTo(null);
  if (to === undefined) return;
  event.preventDefault();
  moveTo(Math.min(high, Math.max(low, to)));
  announce(
    `update ${cursor}: ${[...chart.readout.querySelectorAll("span:not(.when)")].map((part) => part.textContent).join(", ")}`,
    true,
  );
}

/** What a picture says, for who does not see it; told anew now and then, not with each update. */
function describe(chart) {
  const words = linesOf(chart)
    .filter((line) => line.points.length > 0)
    .map((line) => {
      const [first, last] = [line.points[0].mean, line.points.at(-1).mean];
      const least = line.points.reduce((low, point) => Math.min(low, point.least), Infinity);
      const greatest = line.points.reduce((high, point) => Math.max(high, point.greatest), -Infinity);
      return `${line.name}: ${shown(first)} at first, ${shown(last)} now, from ${shown(least)} to ${shown(greatest)}`;
    });
  if (!words.length) return;
  chart.svg.setAttribute("aria-label", `${chart.title}. ${words.join("; ")}`);
  chart.described = Date.now();
}

function fillTable(chart) {
  const lines = linesOf(chart);
  const updates = [...new Set(lines.flatMap((line) => line.points.map((point) => point.first)))].sort((a, b) => a - b);
  const every = Math.ceil(updates.length / TABLE_ROWS) || 1;
  const kept = updates.filter((_, place) => (updates.length - 1 - place) % every === 0);
  const head = element(
    "tr",
    {},
    ...["update", ...lines.map((line) => line.name)].map((name) => element("th", { scope: "col" }, name)),
  );
  const rows = kept.map((update) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, String(update)),
      ...lines.map((line) => {
        const point = line.points.find((one) => one.first === update);
        return element("td", {}, point ? shown(point.mean) : "");
      }),
    ),
  );
  chart.table.querySelector("table")?.remove();
  chart.table.append(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}
