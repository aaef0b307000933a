"use strict";
// A chart of lines: one per site and run, with the range of the values that a point stands for.

const RUN_COLORS = {
  light: ["#0b62a4", "#c4500a", "#1b7f4d", "#8c3fa8", "#a8142d", "#5c6670", "#7a6000", "#006d75"],
  dark: ["#6cb6ff", "#ffa657", "#7ee0a8", "#d2a8ff", "#ff9aa2", "#b8c1cb", "#e3c14c", "#5fd7e0"],
};
const DASHES = [[], [8, 4], [2, 3], [18, 5]];

// A pattern for each number: after the first ones a dash with one dot, with two, and so on.
function dashOf(number) {
  const dots = number - DASHES.length + 1;
  return DASHES[number] ?? [10, 3, ...Array(dots).fill([2, 3]).flat()];
}

function runColor(state, run) {
  const colors = RUN_COLORS[state.theme];
  return colors[run.index % colors.length];
}

function siteColor(state, run, site) {
  return run.colors[state.theme][site];
}

// What a chart of a column shows with the choices of the user. Colours tell sites apart, or runs
// where there is only one site to see of each.
function linesOf(data, state, column) {
  const runs = data.runs.filter((run) => state.runs.has(run.index) && run.tableOf(column).has(column));
  const several = state.runs.size > 1;
  const alone =
    several && runs.every((run) => run.records.sites.filter((site) => state.sites.has(site)).length < 2);
  const lines = [];
  for (const run of runs) {
    const table = run.tableOf(column);
    // Where the colour of a run was used before.
    const again = dashOf(Math.floor(run.index / RUN_COLORS.light.length));
    const line = (site, label, color, more) => ({
      run,
      table,
      column,
      site,
      label,
      color,
      dash: [],
      width: 1.5,
      ...more,
    });
    if (column === "loss") {
      const color = runColor(state, run);
      lines.push(line(0, several ? run.name : "loss of the step", color + "99", { width: 1, dash: again }));
      lines.push(
        line(0, several ? `${run.name}, average` : "average", color, {
          column: "average",
          width: 2,
          plain: true,
          dash: again,
        }),
      );
      continue;
    }
    table.sites.forEach((name, site) => {
      if (!state.sites.has(name)) return;
      lines.push(
        line(
          site,
          several ? `${run.name}: ${name}` : name,
          alone ? runColor(state, run) : siteColor(state, run, site),
          {
            dash: alone ? again : dashOf(several ? run.index : 0),
          },
        ),
      );
    });
  }
  return lines;
}

// Data, series and bands as uPlot wants them: steps of all runs joined, ranges below the lines.
function plottedLines(lines, state) {
  const parts = [];
  const add = (line, values, series) => {
    let part = parts.find((found) => found.table === line.table);
    if (!part) parts.push((part = { table: line.table, data: [line.table.steps], series: [] }));
    part.data.push(state.log ? values.map((value) => (value > 0 ? value : null)) : values);
    part.series.push({ scale: "y", spanGaps: false, ...series });
  };
  for (const line of lines) {
    const { mean, low, high } = line.table.band(line.column, line.site);
    if (state.range && !line.plain && low !== mean) {
      const unseen = { width: 0, points: { show: false } };
      add(line, low, { ...unseen, edge: "low" });
      add(line, high, { ...unseen, edge: "high", fillOf: line.color.slice(0, 7) + "2e" });
    }
    add(line, mean, {
      stroke: line.color,
      width: line.width,
      dash: line.dash,
      points: { filter: lonelyPoints, size: 5, fill: line.color },
    });
  }
  const series = [{}, ...parts.flatMap((part) => part.series)];
  const bands = series.flatMap((one, at) =>
    one.edge === "high" ? [{ series: [at, at - 1], fill: one.fillOf }] : [],
  );
  // A gap is null; what a run lacks only because another one has that step is undefined.
  const data = parts.length > 1 ? uPlot.join(parts.map((part) => part.data)) : (parts[0]?.data ?? [[0]]);
  return { data, series, bands };
}

// A value between two gaps is no line: it gets a point.
function lonelyPoints(plot, at, show) {
  const values = plot.data[at];
  const [from, to] = plot.series[at].idxs;
  const known = [];
  for (let index = from; index <= to; index++) if (values[index] !== undefined) known.push(index);
  if (show && known.length < 60) return known.filter((index) => values[index] !== null);
  const gap = (index) => index === undefined || values[index] === null;
  return known.filter((index, place) => !gap(index) && gap(known[place - 1]) && gap(known[place + 1]));
}

// Draw within the area of the plot, in pixels of the screen.
function within(plot, draw) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  draw(ctx, bbox, (step) => plot.valToPos(step, "x", true));
  ctx.restore();
}

// The first phase as a shade behind the lines; of several runs the shades would lie on each other.
function shadeFirstPhase(plot, chart) {
  const runs = chart.app.shownRuns();
  if (runs.length !== 1 || !["ended", "open"].includes(runs[0].firstPhase)) return;
  const [{ firstStep, firstPhaseEnd }] = runs;
  within(plot, (ctx, bbox, x) => {
    const [from, to] = [x(firstStep), firstPhaseEnd === null ? bbox.left + bbox.width : x(firstPhaseEnd)];
    ctx.fillStyle = chart.color("--phase");
    ctx.fillRect(from, bbox.top, to - from, bbox.height);
  });
}

// On top of the lines: end of the first phase, peak of the similarity, loss at chance level.
function drawMarks(plot, chart) {
  const { state } = chart.app;
  const runs = chart.app.shownRuns();
  const inside = (step) => step !== null && step >= plot.scales.x.min && step <= plot.scales.x.max;
  const marks = [];
  within(plot, (ctx, bbox, x) => {
    for (const run of runs) {
      const color = runs.length === 1 ? chart.color("--end") : runColor(state, run);
      if (inside(run.firstPhaseEnd)) {
        const left = x(run.firstPhaseEnd);
        dashes(ctx, color, 1.5, [5, 3], [left, bbox.top, left, bbox.top + bbox.height]);
        marks.push(`end ${run.firstPhaseEnd}`);
      }
      const { peak } = run;
      if (chart.hasPeaks() && peak && inside(peak.step) && state.sites.has(peak.site)) {
        diamond(ctx, color, chart.color("--card"), x(peak.step), plot.valToPos(peak.value, "y", true));
        marks.push(`peak ${peak.step}`);
      }
    }
    // Runs of different tasks have no such level in common.
    const levels = new Set(runs.map((run) => run.chanceLoss));
    const [level] = levels.size === 1 ? levels : [null];
    if (chart.column === "loss" && level !== null) {
      const top = plot.valToPos(level, "y", true);
      dashes(ctx, chart.color("--muted"), 1, [2, 3], [bbox.left, top, bbox.left + bbox.width, top]);
      marks.push(`chance ${short(level)}`);
    }
  });
  chart.figure.dataset.marks = marks.join(", ");
}

function dashes(ctx, color, width, pattern, [fromX, fromY, toX, toY]) {
  ctx.strokeStyle = color;
  ctx.lineWidth = width * devicePixelRatio;
  ctx.setLineDash(pattern.map((length) => length * devicePixelRatio));
  ctx.beginPath();
  ctx.moveTo(fromX, fromY);
  ctx.lineTo(toX, toY);
  ctx.stroke();
}

function diamond(ctx, color, edge, left, top) {
  const size = 6 * devicePixelRatio;
  ctx.setLineDash([]);
  [ctx.fillStyle, ctx.strokeStyle] = [color, edge];
  ctx.beginPath();
  ctx.moveTo(left, top - size);
  ctx.lineTo(left + size, top);
  ctx.lineTo(left, top + size);
  ctx.lineTo(left - size, top);
  ctx.closePath();
  ctx.fill();
  ctx.stroke();
}
