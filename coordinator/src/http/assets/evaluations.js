// The results of evaluations, and which label was taken for which.

import { byId, element, grouped, shown } from "./page.js";

/** Draws the newest evaluations. */
export function drawEvaluations({ evaluations, labels }) {
  if (!evaluations.length) return;
  const heads = ["split", "update", "accuracy", "macro F1", "loss"].map((name) =>
    element("th", { scope: "col" }, name),
  );
  const row = (it) =>
    element(
      "tr",
      {},
      ...[it.split, grouped(it.update), shown(it.accuracy), shown(it.macro_f1), shown(it.loss)].map((text) =>
        element("td", {}, text),
      ),
    );
  const table = element(
    "table",
    { class: "results" },
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...evaluations.toReversed().map(row)),
  );
  const newest = evaluations.findLast((it) => it.confusion);
  byId("evaluations").replaceChildren(
    element("div", { class: "wide" }, table),
    ...(newest ? [matrix(newest, labels)] : []),
  );
}

function matrix(it, labels) {
  const name = (id) => labels[id] ?? String(id);
  const heads = it.confusion.map((_, id) => element("th", { scope: "col" }, name(id)));
  const rows = it.confusion.map((row, label) => {
    const all = row.reduce((sum, count) => sum + count, 0) || 1;
    const cell = (count, taken) =>
      element(
        "td",
        { class: `${taken === label ? "right" : "wrong"} s${Math.round((10 * count) / all)}` },
        `${count} `,
        element("small", {}, `${Math.round((100 * count) / all)} %`),
      );
    return element("tr", {}, element("th", { scope: "row" }, name(label)), ...row.map(cell));
  });
  const caption = `${it.split} after update ${grouped(it.update)}: rows of each label (down) by what they were taken for (across)`;
  return element(
    "figure",
    {},
    element("figcaption", {}, caption),
    element(
      "div",
      { class: "wide" },
      element("table", { class: "confusion" }, element("tr", {}, element("td", {}), ...heads), ...rows),
    ),
  );
}
