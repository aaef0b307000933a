"use strict";
// The numbers of the page: base64 of little-endian floats, decoded when they are first asked for.

function floats(text, Kind) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return new Kind(bytes.buffer);
}

// Columns of one kind of records, in bins of steps: a line per site.
class Table {
  constructor(raw) {
    this.sites = raw.sites;
    this.steps = Array.from(floats(raw.steps, Float64Array));
    this.edges = floats(raw.edges, Float64Array);
    this.lasts = floats(raw.lasts, Float64Array);
    this.raw = raw.columns;
    this.decoded = new Map();
  }

  has(column) {
    return column in this.raw;
  }

  // Mean, low and high of a column at a site; null where nothing was measured, which is a gap.
  band(column, site) {
    const key = `${column} ${site}`;
    if (!this.decoded.has(key)) {
      const part = (name) => this.slice(column, name, site);
      const mean = part("mean");
      const ranged = "low" in this.raw[column];
      const [low, high] = ranged ? [part("low"), part("high")] : [mean, mean];
      this.decoded.set(key, { mean, low, high });
    }
    return this.decoded.get(key);
  }

  slice(column, name, site) {
    const key = `${column} ${name}`;
    if (!this.decoded.has(key)) this.decoded.set(key, floats(this.raw[column][name], Float32Array));
    const bins = this.steps.length;
    const values = this.decoded.get(key).subarray(site * bins, (site + 1) * bins);
    return Array.from(values, (value) => (Number.isFinite(value) ? value : null));
  }

  // The cell that a step lies in, from the first step of a bin to that of the next; beyond them, the
  // first or the last.
  cellAt(step) {
    let [from, to] = [0, this.steps.length - 1];
    while (from < to) {
      const middle = (from + to + 1) >> 1;
      if (this.edges[middle] <= step) from = middle;
      else to = middle - 1;
    }
    return from;
  }

  // The bin nearest to a step.
  binAt(step) {
    const bin = this.cellAt(step);
    const next = Math.min(bin + 1, this.steps.length - 1);
    return this.edges[next] - step < step - this.lasts[bin] ? next : bin;
  }

  // Whether a step is not farther from the bins than their steps lie apart.
  reaches(step) {
    if (!this.steps.length) return false;
    const end = this.edges[this.steps.length];
    return step >= this.edges[0] - (end - this.lasts.at(-1)) && step <= end;
  }

  // "step 12", or "steps 12 to 19".
  spanOf(bin) {
    const [first, last] = [this.edges[bin], this.lasts[bin]];
    return first >= last ? `step ${whole(first)}` : `steps ${whole(first)} to ${whole(last)}`;
  }
}

function readData(text) {
  const data = JSON.parse(text);
  for (const run of data.runs) {
    run.log = new Table(run.log);
    run.records = new Table(run.records);
    run.tableOf = (column) => (column === "loss" ? run.log : run.records);
  }
  return data;
}

function whole(value) {
  return Math.round(value).toLocaleString("en-US");
}

function short(value) {
  if (value === null || value === undefined) return "n/a";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return whole(value);
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}
