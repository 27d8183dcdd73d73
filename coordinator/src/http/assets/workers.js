// The workers, a lane each: where the time of their last updates went.

import { byId, counted, duration, element, say, shown } from "./page.js";

const DENSE = 24;
const PARTS = [
  ["compute", "compute"],
  ["data", "data"],
  ["all-reduce", "all_reduce"],
  ["waiting", "waiting"],
];

function lane(worker, ended) {
  const rank = worker.rank === null ? "new" : `rank ${worker.rank}`;
  const name = worker.rank === null ? ["new"] : [element("span", { class: "word" }, "rank "), String(worker.rank)];
  const made = element("li", worker.slow ? { class: "slow" } : {}, element("b", {}, ...name));
  if (worker.time) {
    const all = PARTS.reduce((sum, [, key]) => sum + worker.time[key], 0) || 1;
    let from = 0;
    const words = [];
    const bar = element("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img" });
    for (const [name, key] of PARTS) {
      const share = (100 * worker.time[key]) / all;
      bar.append(element("rect", { class: name, x: from, width: share, height: 10 }));
      words.push(`${name} ${share.toFixed(0)} %`);
      from += share;
    }
    bar.setAttribute("aria-label", words.join(", "));
    bar.append(element("title", {}, `${rank}: ${words.join(", ")}; ${shown(all * 1000)} ms an update`));
    const numbers = [worker.time.compute + worker.time.data, worker.time.all_reduce, worker.time.waiting].map(
      (part) => `${((100 * part) / all).toFixed(0)} %`,
    );
    made.append(
      bar,
      element("span", { class: "shares", "aria-hidden": "true" }, ...numbers.map((part) => element("span", {}, part))),
    );
  } else made.append(element("span", { class: "bar" }), element("span", { class: "shares" }));
  const doing = worker.rows === null || worker.state !== "training" ? worker.state : `${worker.rows.toFixed(1)} rows/s`;
  made.append(element("span", { class: "rows" }, doing));
  if (worker.slow) made.append(element("b", { class: "alert" }, `slow: ${worker.slow}`));
  else if (worker.silent > 2 && !ended)
    made.append(element("b", { class: "alert" }, `silent for ${duration(worker.silent)}`));
  return made;
}

/** Draws the workers of a status. */
export function drawWorkers({ workers, expected, ended }) {
  const slow = workers.filter((worker) => worker.slow).map((worker) => worker.rank);
  say(
    "team",
    `${workers.length} of ${counted(expected, "worker")}${slow.length ? `; slow: rank ${slow.join(", ")}` : ""}`,
  );
  byId("lanes").className = workers.length > DENSE ? "lanes dense" : "lanes";
  const names = ["compute", "all-reduce", "waiting"].map((name) => element("span", {}, name));
  const heads = element(
    "li",
    { class: "heads", "aria-hidden": "true" },
    element("span", { class: "shares" }, ...names),
  );
  byId("lanes").replaceChildren(
    ...(workers.some((worker) => worker.time) ? [heads] : []),
    ...workers.map((worker) => lane(worker, ended)),
  );
}
