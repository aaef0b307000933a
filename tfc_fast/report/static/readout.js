"use strict";
// The read-out: a box beside the cursor with the values of the lines at that step.

const MOST_ROWS = 12;

// Lines at a step with their values, the highest first; of many, those nearest to the cursor, and how
// many were left out.
function valuesAt(lines, step, distance) {
  const found = [];
  for (const line of lines) {
    const { table } = line;
    if (!table.reaches(step)) continue;
    const bin = line.isRow ? table.cellAt(step) : table.binAt(step);
    const { mean, low, high } = table.band(line.column, line.site);
    if (mean[bin] === null) continue;
    const ranged = low[bin] !== high[bin] && !line.plain;
    found.push({ line, span: table.spanOf(bin), value: mean[bin], low: low[bin], high: high[bin], ranged });
  }
  for (const one of found) one.distance = distance ? distance(one) : 0;
  found.sort((a, b) => a.distance - b.distance);
  if (distance && found.length) found[0].near = true;
  const values = found.slice(0, MOST_ROWS).sort((a, b) => b.value - a.value);
  return { values, hidden: found.length - values.length };
}

// The steps that all values are of; null where runs were recorded at different ones.
function commonSpan(values) {
  return values.every(({ span }) => span === values[0].span) ? values[0].span : null;
}

function valueText({ value, low, high, ranged }) {
  return ranged ? `${short(value)} (${short(low)} to ${short(high)})` : short(value);
}

class Readout {
  constructor(figure) {
    this.box = document.createElement("div");
    this.box.className = "readout";
    this.box.setAttribute("aria-hidden", "true");
    this.box.hidden = true;
    figure.append(this.box);
  }

  hide() {
    this.box.hidden = true;
  }

  // Texts go in as text: names of sites are the user's.
  show({ values, hidden }, step, left, top, width) {
    this.box.replaceChildren();
    if (!values.length) return this.hide();
    const common = commonSpan(values);
    const head = document.createElement("strong");
    head.textContent = common ?? `around step ${whole(step)}`;
    const table = document.createElement("table");
    for (const one of values) {
      const row = table.insertRow();
      if (one.near) row.className = "near";
      const name = document.createElement("th");
      name.append(swatch(one.line.color, one.line.dash), ` ${one.line.label}`);
      if (common === null) {
        const span = document.createElement("small");
        span.textContent = one.span;
        name.append(span);
      }
      row.append(name);
      row.insertCell().textContent = valueText(one);
    }
    this.box.append(head, table);
    if (hidden > 0) this.box.append(`and ${hidden} more`);
    this.box.hidden = false;
    // On the side of the cursor where there is room.
    const place = left > width / 2 ? left - this.box.offsetWidth - 14 : left + 14;
    this.box.style.left = `${Math.max(0, Math.min(place, width - this.box.offsetWidth))}px`;
    this.box.style.top = `${top}px`;
  }
}
