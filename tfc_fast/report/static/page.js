"use strict";
// The page as a whole: what is chosen, which steps are seen, and new data where they come.

const element = (id) => document.getElementById(id);
const SYSTEM_DARK = matchMedia("(prefers-color-scheme: dark)");
const FIRST_COLUMNS = ["loss", "feature_cos_between", "grad_cos_within"];
const WITHOUT_LABELS = ["loss", "feature_cos_all", "grad_cos_all"];

class App {
  constructor(data) {
    this.host = element("charts");
    this.charts = [];
    this.active = null;
    this.columnsChosen = false;
    this.controls = new Controls(this, element("choices"));
    this.state = {
      columns: new Set(),
      sites: new Set(),
      runs: new Set(),
      log: false,
      range: true,
      map: false,
      zoom: null,
      theme: "light",
    };
    this.take(data);
    this.state.runs = new Set(data.runs.map((run) => run.index));
    this.state.sites = new Set(this.firstSites());
  }

  // Of several runs one site of each is enough to begin with, so that colours tell the runs apart: the
  // peak site of a run where all have it, else that of each, or its last site without a peak.
  firstSites() {
    const runs = this.data.runs.filter((run) => run.records.sites.length);
    if (runs.length < 2 || !runs.some((run) => run.peak)) return this.sites;
    const peaks = runs.flatMap((run) => (run.peak ? [run.peak.site] : []));
    const common = peaks.find((site) => runs.every((run) => run.records.sites.includes(site)));
    return common ? [common] : runs.map((run) => run.peak?.site ?? run.records.sites.at(-1));
  }

  // What is shown until the user chooses; a run that has just begun lacks some of it.
  firstColumns() {
    const measured = (column) => this.data.runs.some((run) => run.tableOf(column).has(column));
    const labelled = measured("feature_cos_between") || measured("grad_cos_within");
    return (labelled ? FIRST_COLUMNS : WITHOUT_LABELS).filter(measured);
  }

  // New data, at first or while a run goes on; what is chosen stays.
  take(data) {
    data.runs.forEach((run, index) => (run.index = index));
    const before = new Set(this.sites ?? []);
    const sites = [...new Set(data.runs.flatMap((run) => run.records.sites))];
    const all = this.sites && this.sites.every((site) => this.state.sites.has(site));
    for (const site of sites) if (all && !before.has(site)) this.state.sites.add(site);
    this.data = data;
    this.sites = sites;
    // A run that was resumed from an earlier step is shorter than before.
    if (this.filled().length) this.state.zoom = this.inside(this.state.zoom);
    if (!this.columnsChosen) this.state.columns = new Set(this.firstColumns());
    this.groups = Object.entries(data.statistics)
      .map(([title, columns]) => [
        title,
        Object.entries(columns).filter(([column]) =>
          data.runs.some((run) => run.tableOf(column).has(column)),
        ),
      ])
      .filter(([, columns]) => columns.length);
    element("range").closest("label").hidden = !data.runs.some((run) =>
      [run.log, run.records].some((table) => Object.values(table.raw).some((column) => "low" in column)),
    );
  }

  // Choices have changed, or data: other charts, or other lines in them.
  changed() {
    const before = this.charts;
    this.charts = this.wanted().map(({ column, title, run }) => {
      const name = `${column} ${run?.index}`;
      // A chart that stays keeps its element, and with it the focus.
      const chart = before.find((one) => one.name === name) ?? new Chart(this, name, column);
      return Object.assign(chart, { title, heatRun: run });
    });
    before.filter((chart) => !this.charts.includes(chart)).forEach((chart) => chart.destroy());
    if (this.charts.length !== before.length || this.charts.some((chart, at) => chart !== before[at])) {
      this.host.replaceChildren(...this.charts.map((chart) => chart.figure));
    }
    if (!this.charts.length) this.host.textContent = "Choose a statistic to see it here.";
    this.controls.render();
    this.charts.forEach((chart) => chart.render());
    const lines = this.charts.find((chart) => !chart.heat && chart.column !== "loss")?.lines ?? [];
    element("legend").replaceChildren(...(lines.length ? [legend(lines)] : []));
    element("marks").textContent = marksText(this.shownRuns(), this.state).join(" · ");
  }

  // The charts of the chosen statistics; a heat map has a chart for each run.
  wanted() {
    const { state } = this;
    const chosen = this.groups
      .flatMap(([, columns]) => columns)
      .filter(([column]) => state.columns.has(column));
    return chosen.flatMap(([column, title]) => {
      if (!state.map || column === "loss") return [{ column, title, run: null }];
      const runs = this.shownRuns().filter((run) => run.records.has(column));
      return runs.map((run) => ({ column, title: runs.length > 1 ? `${title}: ${run.name}` : title, run }));
    });
  }

  shownRuns() {
    return this.data.runs.filter((run) => this.state.runs.has(run.index));
  }

  // The tables of the runs that are shown, as far as there is something in them.
  filled() {
    const tables = this.shownRuns().flatMap((run) => [run.log, run.records]);
    return tables.filter((table) => table.steps.length);
  }

  lastStep() {
    return Math.max(...this.filled().map((table) => table.lasts.at(-1)));
  }

  // All steps of the runs that are shown. The last cell of a heat map begins at the last step.
  full() {
    const filled = this.filled();
    if (!filled.length) return [0, 1];
    const first = Math.min(...filled.map((table) => table.edges[0]));
    const last = this.state.map ? Math.max(...filled.map((table) => table.edges.at(-1))) : this.lastStep();
    return first === last ? [first - 0.5, last + 0.5] : [first, last];
  }

  visible() {
    return this.state.zoom ?? this.full();
  }

  setZoom(range) {
    this.state.zoom = this.inside(range);
    this.charts.forEach((chart) => chart.zoomed());
  }

  // A range of steps moved to where there are some; null for all of them.
  inside(range) {
    const [first, last] = this.full();
    let [from, to] = range ?? [first, last];
    const width = Math.max(to - from, Math.min(2, last - first));
    from = Math.min(Math.max((from + to - width) / 2, first), last - width);
    to = from + width;
    return from <= first && to >= last ? null : [Math.max(from, first), Math.min(to, last)];
  }

  zoomBy(factor, at) {
    const [from, to] = this.visible();
    const center = at === null || at < from || at > to ? (from + to) / 2 : at;
    this.setZoom([center - (center - from) * factor, center + (to - center) * factor]);
  }

  pan(share) {
    const [from, to] = this.visible();
    const [first, last] = this.full();
    const by = Math.max(first - from, Math.min(last - to, share * (to - from)));
    this.setZoom([from + by, to + by]);
  }

  reveal(step) {
    const [from, to] = this.visible();
    if (step < from || step > to) this.setZoom([step - (to - from) / 2, step + (to - from) / 2]);
  }

  activate(chart) {
    if (this.active !== chart) this.active?.readout.hide();
    this.active = chart;
  }

  speak(text) {
    // What is said already is not to be said again.
    if (element("spoken").textContent !== text) element("spoken").textContent = text;
  }

  applyTheme() {
    const wanted = element("theme").value;
    if (wanted) document.documentElement.dataset.theme = wanted;
    else delete document.documentElement.dataset.theme;
    this.state.theme = wanted || (SYSTEM_DARK.matches ? "dark" : "light");
    this.changed();
  }

  listen() {
    element("zoom-in").addEventListener("click", () => this.zoomBy(0.5, null));
    element("zoom-out").addEventListener("click", () => this.zoomBy(2, null));
    element("earlier").addEventListener("click", () => this.pan(-0.5));
    element("later").addEventListener("click", () => this.pan(0.5));
    element("reset").addEventListener("click", () => this.setZoom(null));
    for (const name of ["log", "range", "map"]) {
      element(name).addEventListener("change", (event) => {
        this.state[name] = event.target.checked;
        this.state.zoom = this.inside(this.state.zoom);
        this.changed();
      });
    }
    element("theme").addEventListener("change", () => this.applyTheme());
    SYSTEM_DARK.addEventListener("change", () => this.applyTheme());
    new ResizeObserver(() => this.charts.forEach((chart) => chart.resize())).observe(this.host);
  }

  start() {
    element("without-scripts").hidden = true;
    element("explore").hidden = !this.groups.length;
    document.querySelector(".theme").hidden = false;
    this.listen();
    this.applyTheme();
    document.documentElement.dataset.ready = "true";
  }
}

// Put the new content of an element in place, part by part: what the user opened stays open, what is the
// same stays as it is, and so does the focus.
function takeOver(now, then) {
  const all = (name, within) => [...within.querySelectorAll(name)];
  const open = all("details", then).map((details) => details.open);
  all("details", now).forEach((details, at) => (details.open = open[at] ?? details.open));
  const focus = all("summary", then).indexOf(document.activeElement);
  const parts = [...now.children];
  if (parts.length !== then.children.length) then.replaceChildren(...parts);
  else
    parts.forEach((part, at) => part.isEqualNode(then.children[at]) || then.children[at].replaceWith(part));
  if (focus >= 0) all("summary", then)[focus]?.focus({ preventScroll: true });
}

// The page of a run that goes on: fetched again, and whatever is new in it taken over.
class Refresh {
  constructor(app) {
    Object.assign(this, { app, tag: null });
  }

  async once() {
    // Who drags over steps is not to be disturbed.
    if (this.app.charts.some((chart) => chart.plot.select.width > 0)) return "waiting";
    const answer = await fetch(location.href, {
      cache: "no-store",
      headers: this.tag ? { "If-None-Match": this.tag } : {},
    });
    if (answer.status === 304) return "up to date";
    const text = await answer.text();
    if (!answer.ok) throw new Error(text);
    this.tag = answer.headers.get("ETag");
    const page = new DOMParser().parseFromString(text, "text/html");
    for (const id of ["verdicts", "meaning", "sites", "settings", "versions"])
      takeOver(page.getElementById(id), element(id));
    document.title = page.title;
    this.app.take(readData(page.getElementById("data").textContent));
    element("explore").hidden = !this.app.groups.length;
    this.app.changed();
    return `updated at ${new Date().toLocaleTimeString()}`;
  }

  // As long pauses as an answer took, several times: a long run costs its training little.
  async run() {
    const began = performance.now();
    try {
      element("status").textContent = `Live: ${await this.once()}`;
    } catch (error) {
      element("status").textContent = `Live: no new data (${error.message}); trying again`;
    }
    setTimeout(() => this.run(), Math.max(2000, 5 * (performance.now() - began)));
  }
}

const app = new App(readData(element("data").textContent));
app.start();
if ("live" in document.body.dataset) new Refresh(app).run();
