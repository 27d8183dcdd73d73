// Draws what the coordinator tells at /events: a picture of the run so far, then what is new. It asks for nothing else.

import { announce, byId, duration, element, entry, grouped, say, shown } from "./page.js";
import { points, push } from "./curve.js";
import { drawCharts, makeCharts } from "./chart.js";
import { drawWorkers } from "./workers.js";
import { drawMoments, drawStrip } from "./moments.js";
import { drawEvaluations } from "./evaluations.js";

/** As many as a picture has. */
const MOMENTS = 256;
const EVALUATIONS = 10;

let view = null;
let due = false;
let source = null;

function drawFigures() {
  const { status, evaluations } = view;
  // Before its first update a coordinator that came back has but the curve.
  const latest = (value, measure) => shown(value ?? points(view.training, measure).at(-1)?.mean);
  const newest = evaluations.findLast((it) => it.accuracy !== null);
  const validation = evaluations.findLast((it) => it.split === "validation" && it.loss !== null);
  byId("figures").replaceChildren(
    entry("loss", latest(status.loss, 0), validation && `validation ${shown(validation.loss)}`),
    entry(
      "accuracy",
      newest ? shown(newest.accuracy) : "-",
      newest && `macro F1 ${shown(newest.macro_f1)}, ${newest.split} after ${grouped(newest.update)}`,
    ),
    entry("learning rate", latest(status.learning_rate, 1)),
    entry("gradient norm", latest(status.grad_norm, 2), status.skipped ? `${status.skipped} updates skipped` : ""),
    entry(
      "rows a second",
      shown(status.rows_per_second),
      status.tokens_per_second ? `${grouped(Math.round(status.tokens_per_second))} tokens/s` : "",
    ),
    entry(
      status.ended ? "elapsed" : "left",
      status.ended ? duration(status.elapsed) : status.left === null ? "-" : duration(status.left),
      status.ended ? "" : `${duration(status.elapsed)} so far`,
    ),
  );
}

function drawProgress() {
  const { status } = view;
  document.title =
    status.total && !status.ended
      ? `${Math.floor((100 * status.update) / status.total)} % ${status.state} - Medley`
      : `${status.state} - Medley`;
  say("run", status.run);
  say("version", `Medley ${status.version}`);
  say("state", status.stopping && !status.ended ? `${status.state}, stopping` : status.state);
  byId("state").className = `state ${status.state.replace(" ", "-")}`;
  const alerts = [];
  if (status.paused) alerts.push("Nothing can be written, so training waits; medley status says why.");
  if (status.stopping && !status.ended) alerts.push("It was asked to stop: what is under way is finished and saved.");
  const lines = alerts.map((text) => element("p", { class: "alert" }, text));
  byId("alerts").replaceChildren(...lines);
  if (!status.total) return;
  const bar = byId("progress").querySelector("progress") || element("progress", { "aria-label": "Updates" });
  bar.max = status.total;
  bar.value = status.update;
  const share = ((100 * status.update) / status.total).toFixed(1);
  const saved =
    status.saving !== null
      ? `saving ${grouped(status.saving)}`
      : status.checkpoint !== null
        ? `saved at ${grouped(status.checkpoint)}`
        : "nothing saved yet";
  const line = element("p", {}, element("b", {}, `update ${grouped(status.update)}`), ` of ${grouped(status.total)}`);
  for (const text of [`${share} %`, `epoch ${status.epoch.toFixed(2)}`, saved]) line.append(element("span", {}, text));
  byId("progress").replaceChildren(bar, line);
}

function drawPlan() {
  byId("plan").replaceChildren(...view.plan.map(([name, text]) => entry(name, text)));
}

function render() {
  due = false;
  drawProgress();
  drawFigures();
  drawCharts(view);
  drawWorkers(view.status);
  drawMoments(view);
}

function changed() {
  if (!due) {
    due = true;
    requestAnimationFrame(render);
  }
}

function replaced(message) {
  const was = view;
  view = JSON.parse(message.data);
  drawEvaluations(view);
  drawPlan();
  told(was);
}

function added(message) {
  if (!view) return;
  const news = JSON.parse(message.data);
  const was = view;
  view = { ...view, status: news.status };
  for (const [update, ...values] of news.updates) push(view.training, update, values);
  for (const it of news.evaluations) {
    if (it.split === "validation") push(view.validation, it.update, [it.loss, it.accuracy, it.macro_f1]);
    view.evaluations.push(it);
  }
  view.evaluations.splice(0, view.evaluations.length - EVALUATIONS);
  view.moments.push(...news.moments);
  view.forgotten += view.moments.splice(0, view.moments.length - MOMENTS).length;
  if (news.evaluations.length) drawEvaluations(view);
  news.moments
    .filter((moment) => moment.kind !== "checkpoint")
    .forEach((moment) => announce(`update ${moment.update}: ${moment.words}`));
  told(was);
}

function told(was) {
  if (was && was.status.state !== view.status.state && view.status.ended) announce(`the run has ${view.status.state}`);
  say("link", view.status.ended ? "" : "live");
  byId("link").className = view.status.ended ? "link" : "link on";
  changed();
  if (view.status.ended) {
    source.close();
    // The same command may go on with it, at the same address.
    if (view.status.state === "stopped") setTimeout(listen, 15000);
  }
}

function listen() {
  source = new EventSource("/events");
  source.addEventListener("picture", replaced);
  source.addEventListener("news", added);
  source.addEventListener("error", () => {
    say("link", "cut off; trying again");
    byId("link").className = "link off";
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
  });
}

byId("charts").replaceChildren(...makeCharts());
byId("controls").hidden = false;
byId("controls").addEventListener("input", changed);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
new ResizeObserver(() => {
  if (view) drawStrip(view);
}).observe(byId("strip"));
listen();
