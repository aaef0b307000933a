"use strict";
// A chart of colours: sites from input (on top) to output against steps.

// The heat maps of a column: one per run, so each has a table of its own.
function heatOf(data, state, column, run) {
  const table = run.records;
  const sites = table.sites.map((name, site) => ({ name, site })).filter(({ name }) => state.sites.has(name));
  let [low, high] = [Infinity, -Infinity];
  const rows = sites.map(({ name, site }) => {
    const values = table.band(column, site).mean.map((value) => (state.log && !(value > 0) ? null : value));
    for (const value of values) {
      if (value === null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    return { name, site, values };
  });
  return { run, table, rows, low, high, colors: data.heat };
}

function heatColor(heat, value, log) {
  const scale = log ? Math.log : (number) => number;
  const [low, high] = [scale(heat.low), scale(heat.high)];
  const share = high > low ? (scale(value) - low) / (high - low) : 0.5;
  return heat.colors[Math.round(share * (heat.colors.length - 1))];
}

function plottedHeat(heat) {
  // The line is never seen: it tells uPlot how far the steps go.
  return {
    data: [heat.table.steps, heat.table.steps.map(() => null)],
    series: [{}, { scale: "y" }],
    bands: [],
  };
}

function drawHeat(plot, heat, log) {
  const { edges, steps } = heat.table;
  const [from, to] = [heat.table.cellAt(plot.scales.x.min), heat.table.cellAt(plot.scales.x.max)];
  const tops = heat.rows.map((_, row) => Math.round(plot.valToPos(row, "y", true)));
  tops.push(Math.round(plot.valToPos(heat.rows.length, "y", true)));
  within(plot, (ctx, _, x) => {
    for (let bin = from; bin <= Math.min(to, steps.length - 1); bin++) {
      const [left, right] = [Math.floor(x(edges[bin])), Math.ceil(x(edges[bin + 1]))];
      heat.rows.forEach((row, at) => {
        const value = row.values[bin];
        if (value === null) return;
        ctx.fillStyle = heatColor(heat, value, log);
        ctx.fillRect(left, tops[at], Math.max(right - left, 1), tops[at + 1] - tops[at]);
      });
    }
  });
}

// Which colour is which value, below the map.
function heatScale(heat) {
  const box = document.createElement("p");
  box.className = "scale";
  const bar = document.createElement("span");
  bar.style.background = `linear-gradient(to right, ${heat.colors.join(", ")})`;
  box.append(short(heat.low), bar, short(heat.high));
  return box;
}
