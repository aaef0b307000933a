"use strict";
// What the user can choose: runs, statistics, sites. Built from the data, as text and never as HTML.

// A piece of a line as it is in the charts.
function swatch(color, dash = []) {
  const [mark, line] = ["svg", "line"].map((name) =>
    document.createElementNS("http://www.w3.org/2000/svg", name),
  );
  mark.setAttribute("class", "swatch");
  const look = {
    x2: "100%",
    y1: 2,
    y2: 2,
    stroke: color,
    "stroke-width": 3,
    "stroke-dasharray": dash.join(" "),
  };
  for (const [name, value] of Object.entries(look)) line.setAttribute(name, value);
  mark.append(line);
  return mark;
}

// Which colour is which line, over the charts; with many lines the first and the last.
function legend(lines) {
  const list = document.createElement("ul");
  list.className = "legend";
  const shown = lines.length > MOST_ROWS ? [lines[0], lines[lines.length - 1]] : lines;
  for (const line of shown) {
    const item = document.createElement("li");
    item.append(swatch(line.color, line.dash), line.label);
    list.append(item);
  }
  if (shown.length < lines.length) {
    const between = document.createElement("li");
    between.textContent = `${lines.length - 2} between them`;
    list.insertBefore(between, list.lastChild);
  }
  return list;
}

// What the marks in the charts mean, in words.
function marksText(runs, state) {
  const of = (run) => (runs.length > 1 ? `${run.name}: ` : "");
  return runs.map((run) => {
    const end = {
      ended: () => `first phase to the dashed line at step ${whole(run.firstPhaseEnd)}`,
      open: () => "the first phase has not ended",
      none: () => "there was no first phase",
      unknown: () => "when the first phase ended is not known",
    }[run.firstPhase]();
    const peak = run.peak?.step
      ? `; ${state.map ? "" : "◆ "}peak of the similarity, ${short(run.peak.value)} at ${run.peak.site}, step ${whole(run.peak.step)}`
      : "";
    return `${of(run)}${end}${peak}`;
  });
}

function checkbox(label, checked, onChange, mark) {
  const box = document.createElement("label");
  box.className = "choice";
  const input = document.createElement("input");
  input.type = "checkbox";
  input.checked = checked;
  input.addEventListener("change", () => onChange(input.checked));
  const text = document.createElement("span");
  text.textContent = label;
  box.append(input, ...(mark ? [mark] : []), text);
  return box;
}

function group(title, boxes) {
  const fieldset = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = title;
  fieldset.append(legend, ...boxes);
  return fieldset;
}

class Controls {
  constructor(app, host) {
    Object.assign(this, { app, host });
    this.folded = new Map();
  }

  render() {
    const focus = document.activeElement?.closest?.(
      "#choices label, #choices button, #choices summary",
    )?.textContent;
    this.host.replaceChildren(...[this.runs(), this.sites(), this.statistics()].filter(Boolean));
    // The element that had the focus was replaced by its like.
    if (focus) {
      const like = [...this.host.querySelectorAll("label, button, summary")].find(
        (one) => one.textContent === focus,
      );
      (like?.querySelector("input") ?? like)?.focus();
    }
  }

  section(title, chosen, all, content) {
    const details = document.createElement("details");
    details.open = this.folded.get(title) ?? matchMedia("(min-width: 50rem)").matches;
    details.addEventListener("toggle", () => this.folded.set(title, details.open));
    const summary = document.createElement("summary");
    summary.textContent = `${title}: ${chosen} of ${all}`;
    details.append(summary, ...content);
    return details;
  }

  chosen(set, value, on) {
    if (set === this.app.state.columns) this.app.columnsChosen = true;
    if (on) set.add(value);
    else set.delete(value);
    this.app.changed();
  }

  runs() {
    const { data, state } = this.app;
    if (data.runs.length === 1) return null;
    const boxes = data.runs.map((run) =>
      checkbox(
        run.name,
        state.runs.has(run.index),
        (on) => this.chosen(state.runs, run.index, on),
        swatch(runColor(state, run)),
      ),
    );
    return this.section("Runs", state.runs.size, data.runs.length, boxes);
  }

  statistics() {
    const { state, groups } = this.app;
    const all = groups.flatMap(([, columns]) => columns.map(([column]) => column));
    const fields = groups.map(([title, columns]) =>
      group(
        title,
        columns.map(([column, label]) =>
          checkbox(label, state.columns.has(column), (on) => this.chosen(state.columns, column, on)),
        ),
      ),
    );
    return this.section(
      "Statistics",
      all.filter((column) => state.columns.has(column)).length,
      all.length,
      fields,
    );
  }

  sites() {
    const { state, sites, data } = this.app;
    if (!sites.length) return null;
    const buttons = document.createElement("div");
    buttons.className = "buttons";
    for (const [label, chosen] of [
      ["All sites", sites],
      ["No site", []],
    ]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.addEventListener("click", () => {
        state.sites = new Set(chosen);
        this.app.changed();
      });
      buttons.append(button);
    }
    const boxes = sites.map((name) => {
      const run = data.runs.find((one) => one.records.sites.includes(name));
      const color = siteColor(state, run, run.records.sites.indexOf(name));
      return checkbox(name, state.sites.has(name), (on) => this.chosen(state.sites, name, on), swatch(color));
    });
    return this.section("Sites", sites.filter((name) => state.sites.has(name)).length, sites.length, [
      buttons,
      group("from input to output", boxes),
    ]);
  }
}
