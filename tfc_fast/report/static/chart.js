"use strict";
// One chart: uPlot with the zoom, the read-out and the keys that all charts share.

const FONT = "12px system-ui, sans-serif";

class Chart {
  // What it shows comes before it is rendered: title, and heatRun, the run of a heat map or null.
  constructor(app, name, column) {
    Object.assign(this, { app, name, column, title: "", heatRun: null, step: null, byKey: false });
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
    this.figure.addEventListener("blur", () => this.release());
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
    this.heat = this.heatRun ? heatOf(data, state, this.column, this.heatRun) : null;
    this.lines = this.heat
      ? this.heat.rows.map((row) => this.heatLine(row))
      : linesOf(data, state, this.column);
    const plotted = this.heat ? plottedHeat(this.heat) : plottedLines(this.lines, state);
    this.note.textContent = this.heat ? "" : this.leftOut(plotted.data);
    this.plot = new uPlot(this.options(plotted), plotted.data, this.host);
    if (this.heat && this.heat.high >= this.heat.low) this.host.append(heatScale(this.heat));
    this.listen(this.plot.over);
    this.describe();
    // The read-out stays where it was: at its step, or below the mouse.
    if (app.active === this && !this.byKey && cursor?.left >= 0)
      this.plot.setCursor({ left: cursor.left, top: cursor.top });
  }

  options({ series, bands }) {
    const { app } = this;
    const { state } = app;
    const narrow = this.width() < 480;
    const grid = { stroke: this.color("--grid"), width: 1 };
    const axis = { stroke: this.color("--muted"), grid, ticks: grid, font: FONT };
    const ofSteps = (_, splits) => splits.map((split) => (Number.isInteger(split) ? whole(split) : ""));
    const rows = this.heat?.rows.length;
    return {
      width: this.width(),
      height: this.heat ? 70 + Math.min(Math.max(22 * rows, 60), 420) : narrow ? 220 : 270,
      padding: [8, 22, 0, 0],
      legend: { show: false },
      series,
      bands,
      scales: { x: { time: false, range: () => app.visible() }, y: this.yScale(state) },
      axes: [
        {
          ...axis,
          values: ofSteps,
          space: narrow ? 48 : 70,
          size: 34,
          label: "step",
          labelSize: 16,
          labelFont: FONT,
          labelGap: 0,
        },
        { ...axis, ...this.yAxis(state) },
      ],
      cursor: {
        sync: { key: "steps", setSeries: false },
        points: { show: false },
        drag: { x: true, y: false, setScale: false },
        bind: { dblclick: () => () => (app.setZoom(null), null) },
      },
      hooks: {
        drawClear: [(plot) => shadeFirstPhase(plot, this)],
        draw: [(plot) => this.drawn(plot)],
        setSelect: [(plot) => this.selected(plot)],
        setCursor: [(plot) => this.moved(plot)],
      },
    };
  }

  drawn(plot) {
    if (this.heat) drawHeat(plot, this.heat, this.app.state.log);
    drawMarks(plot, this);
    this.follow(plot);
  }

  listen(area) {
    area.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    area.addEventListener("pointermove", (event) => this.touched(event));
    area.addEventListener("pointerdown", (event) => {
      this.figure.focus({ preventScroll: true });
      this.touched(event);
    });
  }

  destroy() {
    this.readout.hide();
    if (this.plot) this.plot.destroy();
    this.plot = null;
    this.host.replaceChildren();
  }

  resize() {
    if (this.plot && this.plot.width !== this.width())
      this.plot.setSize({ width: this.width(), height: this.plot.height });
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

  heatLine({ name, site }) {
    return {
      run: this.heatRun,
      table: this.heat.table,
      column: this.column,
      site,
      label: name,
      color: "transparent",
      isRow: true,
    };
  }

  // Whether the peak of the similarity of features has its place here.
  hasPeaks() {
    return this.column === "feature_cos_between" && !this.heat;
  }

  yScale(state) {
    if (this.heat) return { range: [0, Math.max(this.heat.rows.length, 1)], dir: -1 };
    const pad = { min: { pad: 0.06 }, max: { pad: 0.06 } };
    const linear = (_, low, high) => (low === null ? [0, 1] : uPlot.rangeNum(low, high, pad));
    if (!state.log) return { range: linear };
    const room = (low, high) => (low === high ? [low / 2, high * 2] : [low / 1.05, high * 1.05]);
    return { distr: 3, range: (_, low, high) => (low === null ? [0.1, 1] : room(low, high)) };
  }

  yAxis(state) {
    // As wide in all charts, so that steps stand below each other.
    const size = !state.map ? 58 : this.width() < 480 ? 96 : 128;
    const ticks = state.log ? { splits: logTicks, filter: (_, splits) => splits } : {};
    if (!this.heat) return { size, values: (_, splits) => splits.map(short), ...ticks };
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
  leftOut(data) {
    const shown = data.slice(1).some((line) => line.some((value) => value !== null && value !== undefined));
    if (!shown) return "Nothing to show with these choices.";
    if (!this.app.state.log) return "";
    const some = this.lines.some((line) =>
      line.table.band(line.column, line.site).low.some((value) => value !== null && value <= 0),
    );
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
    this.byKey = false;
    if (event.pointerType === "mouse") return;
    const box = this.plot.over.getBoundingClientRect();
    this.plot.setCursor({ left: event.clientX - box.left, top: event.clientY - box.top });
  }

  moved(plot) {
    const { left, top } = plot.cursor;
    if (this.app.active !== this || left === undefined || left < 0) return this.readout.hide();
    if (!this.byKey) this.step = plot.posToVal(left, "x");
    let found = valuesAt(this.lines, this.step, this.distance(plot, top));
    if (this.heat) found = { values: found.values.filter(({ near }) => near), hidden: 0 };
    const area = plot.over.getBoundingClientRect();
    const origin = this.figure.getBoundingClientRect();
    this.readout.show(
      found,
      this.step,
      area.left - origin.left + left,
      area.top - origin.top + 6,
      origin.width,
    );
    if (this.byKey) this.speak(found.values);
  }

  // How far a line is from the cursor; the keys move it over steps only.
  distance(plot, top) {
    if (this.heat) return ({ line }) => Math.abs(this.lines.indexOf(line) + 0.5 - plot.posToVal(top, "y"));
    return this.byKey ? null : ({ value }) => Math.abs(plot.valToPos(value, "y") - top);
  }

  speak(values) {
    if (!values.length) return this.app.speak("nothing measured here");
    const common = commonSpan(values);
    const texts = values.map(
      (one) => `${one.line.label}${common === null ? `, ${one.span},` : ""} ${valueText(one)}`,
    );
    this.app.speak(`${common ?? `around step ${whole(this.step)}`}: ${texts.join(", ")}`);
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
    // The page may have scrolled another chart below the mouse.
    app.activate(this);
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
    this.follow(this.plot);
  }

  // Where the keys put the read-out it stays, whatever steps are seen; out of sight it is hidden.
  follow(plot) {
    if (!this.byKey || this.app.active !== this) return;
    const at = plot.valToPos(this.step, "x");
    const seen = at > -1 && at < plot.over.clientWidth + 1;
    plot.setCursor({ left: seen ? Math.max(at, 0) : -10, top: plot.over.clientHeight / 2 });
  }

  // Who comes back goes on from the same step.
  release() {
    this.byKey = false;
    this.plot?.setCursor({ left: -10, top: -10 });
    this.readout.hide();
  }

  describe() {
    const [from, to] = this.app.visible();
    const count = this.lines.length;
    const plural = count === 1 ? "" : "s";
    const what = this.heat ? `heat map of ${count} site${plural}` : `${count} line${plural}`;
    const steps = count ? `, steps ${whole(from)} to ${whole(Math.min(to, this.app.lastStep()))}` : "";
    const log = this.app.state.log ? ", log scale" : "";
    this.figure.setAttribute("aria-label", `${this.title}: ${what}${steps}${log}`);
  }
}

// Ticks of a log scale: 1, 2 and 5 of each power of ten; even steps where that are too few.
function logTicks(plot, _, low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const digit of [1, 2, 5]) ticks.push(Number(`${digit}e${power}`));
  }
  const inside = ticks.filter((tick) => tick >= low && tick <= high);
  const thinned =
    inside.length > 12 ? inside.filter((tick) => String(tick.toExponential()).startsWith("1e")) : inside;
  if (thinned.length > 2) return thinned;
  const step = 10 ** Math.floor(Math.log10(high - low));
  const size = (high - low) / step < 3 ? step / 2 : step;
  const even = [];
  for (let count = Math.ceil(low / size); count * size <= high; count++)
    even.push(Number((count * size).toPrecision(6)));
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
