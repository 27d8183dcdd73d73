// Values over updates in buckets, as the coordinator tells them, and the axes that they are drawn on.

/** A measure of a bucket as least, sum, greatest and count; null where there is none. */
const spread = (value) => (typeof value === "number" ? [value, value, value, 1] : value);

function merged(one, other) {
  const [a, b] = [spread(one), spread(other)];
  if (!a || !b) return a || b;
  return [Math.min(a[0], b[0]), a[1] + b[1], Math.max(a[2], b[2]), a[3] + b[3]];
}

/** Adds an update's values; the coordinator says all anew before there are too many buckets. */
export function push(curve, update, values) {
  const last = curve.buckets.at(-1);
  if (last && Math.floor(last[0] / curve.span) === Math.floor(update / curve.span)) {
    last[1] = update;
    values.forEach((value, at) => {
      last[2 + at] = merged(last[2 + at], value);
    });
  } else curve.buckets.push([update, update, ...values]);
}

/** The points of a line: where, and the least, mean and greatest value there. */
export function points(curve, measure) {
  const found = [];
  for (const bucket of curve.buckets) {
    const value = spread(bucket[2 + measure]);
    if (value)
      found.push({
        first: bucket[0],
        x: (bucket[0] + bucket[1]) / 2,
        least: value[0],
        mean: value[1] / value[3],
        greatest: value[2],
      });
  }
  return found;
}

/** The means, each drawn towards those before it; the first ones are not drawn towards 0. */
export function smoothed(line, weight) {
  let [sum, norm] = [0, 0];
  return line.map((point) => {
    sum = weight * sum + (1 - weight) * point.mean;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

/** About `count` round numbers in a range. */
export function ticks(low, high, count) {
  const raw = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((times) => times * unit).find((size) => size >= raw * 0.999) || raw;
  if (!(step > 0) || !Number.isFinite(step)) return [];
  const found = [];
  for (let tick = Math.ceil(low / step); tick * step <= high * (1 + 1e-12); tick += 1)
    found.push(Number((tick * step).toPrecision(12)));
  return found;
}

/** Powers of ten, with 2 and 5 between them where there are few. */
export function powers(low, high) {
  const found = [];
  const few = Math.log10(high / low) < 3;
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const times of few ? [1, 2, 5] : [1]) {
      const tick = Number((times * 10 ** power).toPrecision(6));
      if (tick >= low && tick <= high) found.push(tick);
    }
  }
  return found.length > 1 ? found : ticks(low, high, 4);
}

/** The range of values, wider by a share of itself; nothing where there are none. */
export function range(values, margin) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  if (low === high) return [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  return [low - (high - low) * margin, high + (high - low) * margin];
}
