"use strict";
// One chart: uPlot with the zoom, the read-out and the keys that all charts share.

const FONT = "12px system-ui, sans-serif";

class Chart {
  // What it shows comes before it is rendered: title, and heatRun, the run of a heat map or null.
  constructor(app, name, column) {
    Object.assign(this, { app, name, column, title: "", heatRun: null, step: null });
    this.figure = document.createElement("figure");
    this.figure.className = "chart";
    this.figure.tabIndex = 0;
    this.figure.setAttribute("role", "group");
    this.figure.setAttribute("aria-roledescription", "chart");
    this.figure.setAttribute("aria-describedby", "keys");
    this.figure.dataset.column = column;
    this.heading = document.createElement("h3");
    this.note = document.createElement("p");
    this.note.className = "note";
    this.host = document.createElement("div");
    this.figure.append(this.heading, this.note, this.host);
    this.readout = new Readout(this.figure);
    this.figure.addEventListener("keydown", (event) => this.key(event));
    this.figure.addEventListener("pointerenter", () => app.activate(this));
    this.figure.addEventListener("pointerleave", () => this.readout.hide());
    this.figure.addEventListener("focus", () => app.activate(this));
    this.figure.addEventListener("blur", () => this.readout.hide());
  }

  color(name) {
    return resolvedColor(this.note, name);
  }

  // Draw anew, after choices, data or colours have changed.
  render() {
    const { app } = this;
    const { state, data } = app;
    const cursor = this.plot?.cursor;
    this.destroy();
    this.heading.textContent = this.title;
    this.lines = this.heatRun ? [] : linesOf(data, state, this.column);
    this.heat = this.heatRun ? heatOf(data, state, this.column, this.heatRun) : null;
    const { data: values, series, bands } = this.heat ? plottedHeat(this.heat) : plottedLines(this.lines, state);
    if (this.heat) this.lines = this.heat.rows.map(({ name, site }) => this.heatLine(name, site));
    const empty = !values.slice(1).some((line) => line.some((value) => value !== null && value !== undefined));
    this.note.textContent = this.heat ? "" : this.leftOut(values, empty);
    const axis = { stroke: this.color("--muted"), grid: { stroke: this.color("--grid"), width: 1 }, ticks: { stroke: this.color("--grid"), width: 1 }, font: FONT };
    this.plot = new uPlot(
      {
        width: this.width(),
        height: this.heat ? 70 + Math.min(Math.max(22 * this.heat.rows.length, 60), 420) : this.width() < 480 ? 220 : 270,
        padding: [8, 8, 0, 0],
        legend: { show: false },
        series,
        bands,
        scales: { x: { time: false, range: () => app.visible() }, y: this.yScale(state) },
        axes: [
          { ...axis, values: (_, splits) => splits.map((split) => (Number.isInteger(split) ? whole(split) : "")), space: this.width() < 480 ? 48 : 70, size: 34, label: "step", labelSize: 16, labelFont: FONT, labelGap: 0 },
          { ...axis, ...this.yAxis(state) },
        ],
        cursor: {
          sync: { key: "steps", setSeries: false },
          points: { show: false },
          drag: { x: true, y: false, setScale: false },
          bind: { dblclick: () => () => (app.setZoom(null), null) },
        },
        hooks: {
          drawClear: [(plot) => markPhases(plot, this, true)],
          draw: [(plot) => (this.heat && drawHeat(plot, this.heat, state.log), markPhases(plot, this, false))],
          setSelect: [(plot) => this.selected(plot)],
          setCursor: [(plot) => this.moved(plot)],
        },
      },
      values,
      this.host,
    );
    if (this.heat && this.heat.high >= this.heat.low) this.host.append(heatScale(this.heat));
    this.plot.over.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.plot.over.addEventListener("pointermove", (event) => this.touched(event));
    this.plot.over.addEventListener("pointerdown", (event) => (this.figure.focus({ preventScroll: true }), this.touched(event)));
    this.describe();
    if (app.active === this && cursor?.left >= 0) this.plot.setCursor({ left: cursor.left, top: cursor.top });
  }

  destroy() {
    this.readout.hide();
    if (this.plot) this.plot.destroy();
    this.plot = null;
    this.host.replaceChildren();
  }

  resize() {
    if (this.plot && this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: this.plot.height });
  }

  zoomed() {
    if (!this.plot) return;
    const [min, max] = this.app.visible();
    this.plot.setScale("x", { min, max });
    this.describe();
  }

  width() {
    return Math.max(this.app.host.clientWidth, 200);
  }

  heatLine(label, site) {
    return { run: this.heatRun, table: this.heat.table, column: this.column, site, label, color: "transparent" };
  }

  yScale(state) {
    if (this.heat) return { range: [0, Math.max(this.heat.rows.length, 1)], dir: -1 };
    if (state.log) return { distr: 3, range: (_, low, high) => (low === null ? [0.1, 1] : low === high ? [low / 2, high * 2] : [low / 1.05, high * 1.05]) };
    return { range: (_, low, high) => (low === null ? [0, 1] : uPlot.rangeNum(low, high, { min: { pad: 0.06 }, max: { pad: 0.06 } })) };
  }

  yAxis(state) {
    // As wide in all charts, so that steps stand below each other.
    const size = !state.map ? 58 : this.width() < 480 ? 96 : 128;
    if (!this.heat) return { size, values: (_, splits) => splits.map(short), ...(state.log ? { splits: logTicks, filter: (_, splits) => splits } : {}) };
    const names = this.heat.rows.map(({ name }) => (name.length > 16 ? `…${name.slice(-15)}` : name));
    const every = Math.max(1, Math.ceil(names.length / 24));
    return {
      size,
      grid: { show: false },
      splits: () => names.flatMap((_, at) => (at % every ? [] : [at + 0.5])),
      values: (_, splits) => splits.map((split) => names[Math.floor(split)]),
    };
  }

  // What a log scale cannot show is said.
  leftOut(values, empty) {
    if (empty) return "Nothing to show with these choices.";
    if (!this.app.state.log) return "";
    const some = this.lines.some((line) => line.table.band(line.column, line.site).low.some((value) => value !== null && value <= 0));
    return some ? "Values of 0 and less have no place on a log scale: they are left out." : "";
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 3) return;
    const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.app.setZoom(range);
  }

  // The page scrolls with the wheel, unless Ctrl is held.
  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const at = this.plot.posToVal(event.clientX - this.plot.over.getBoundingClientRect().left, "x");
    this.app.zoomBy(event.deltaY < 0 ? 0.8 : 1.25, at);
  }

  touched(event) {
    if (event.pointerType === "mouse") return;
    const box = this.plot.over.getBoundingClientRect();
    this.plot.setCursor({ left: event.clientX - box.left, top: event.clientY - box.top });
  }

  moved(plot) {
    const { left, top } = plot.cursor;
    if (this.app.active !== this || left === undefined || left < 0) return this.readout.hide();
    const step = plot.posToVal(left, "x");
    if (!this.byKey) this.step = step;
    const distance = this.heat
      ? ({ line }) => Math.abs(this.lines.indexOf(line) + 0.5 - plot.posToVal(top, "y"))
      : this.byKey ? null : ({ value }) => Math.abs(plot.valToPos(value, "y") - top);
    let values = valuesAt(this.lines, this.byKey ? this.step : step, distance);
    if (this.heat) values = values.filter(({ near }) => near);
    const hidden = this.heat ? 0 : Math.max(this.lines.length - MOST_ROWS, 0);
    const offset = plot.over.getBoundingClientRect();
    const origin = this.figure.getBoundingClientRect();
    this.readout.show(values, hidden, offset.left - origin.left + left, offset.top - origin.top + 6, origin.width);
    if (this.byKey) this.app.speak(values.length ? `${values[0].span}: ${values.map((one) => `${one.line.label} ${valueText(one)}`).join(", ")}` : "nothing measured here");
  }

  key(event) {
    const { app } = this;
    const keys = {
      ArrowLeft: () => this.move(event.shiftKey ? -10 : -1),
      ArrowRight: () => this.move(event.shiftKey ? 10 : 1),
      "+": () => app.zoomBy(0.5, this.step),
      "=": () => app.zoomBy(0.5, this.step),
      "-": () => app.zoomBy(2, this.step),
      PageUp: () => app.pan(-0.5),
      PageDown: () => app.pan(0.5),
      Home: () => this.move(-Infinity),
      End: () => this.move(Infinity),
      Escape: () => app.setZoom(null),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }

  // Move the read-out by points of the first line.
  move(points) {
    const [line] = this.lines;
    if (!line || !line.table.steps.length) return;
    const { steps } = line.table;
    const [from, to] = this.app.visible();
    const now = this.step === null || this.step < from || this.step > to ? (from + to) / 2 : this.step;
    const bin = Math.min(Math.max(line.table.binAt(now) + points, 0), steps.length - 1);
    this.step = steps[bin];
    this.app.reveal(this.step);
    this.byKey = true;
    this.plot.setCursor({ left: this.plot.valToPos(this.step, "x"), top: this.plot.over.clientHeight / 2 });
    this.byKey = false;
  }

  describe() {
    const [from, to] = this.app.visible();
    const count = this.lines.length;
    const what = this.heat ? `heat map of ${count} site${count === 1 ? "" : "s"}` : `${count} line${count === 1 ? "" : "s"}`;
    const log = this.app.state.log ? ", log scale" : "";
    this.figure.setAttribute("aria-label", `${this.title}: ${what}, steps ${whole(from)} to ${whole(to)}${log}`);
  }
}

// Ticks of a log scale: 1, 2 and 5 of each power of ten; even steps where that are too few.
function logTicks(plot, _, low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const digit of [1, 2, 5]) ticks.push(Number(`${digit}e${power}`));
  }
  const inside = ticks.filter((tick) => tick >= low && tick <= high);
  const thinned = inside.length > 12 ? inside.filter((tick) => String(tick.toExponential()).startsWith("1e")) : inside;
  if (thinned.length > 2) return thinned;
  const step = 10 ** Math.floor(Math.log10(high - low));
  const size = (high - low) / step < 3 ? step / 2 : step;
  const even = [];
  for (let count = Math.ceil(low / size); count * size <= high; count++) even.push(Number((count * size).toPrecision(6)));
  return even;
}

// A colour of the style sheet as canvas understands it, also where it depends on light or dark.
function resolvedColor(element, name) {
  const before = element.style.color;
  element.style.color = `var(${name})`;
  const color = getComputedStyle(element).color;
  element.style.color = before;
  return color;
}
