// The curves of a prompt and its response: scores and their velocity, with the places that matter.

import { traitParts } from "../format.js";
import { faded } from "../palette.js";
import { literal, plot } from "../plots.js";
import { firstOf } from "./tokens.js";

const UNITS = { centered: "h·v̂ − centre (activation units)", raw: "h·v̂ (activation units)", cosine: "cosine of h and v" };

export function coursePlot({ found, painted, scale, window, compared, onhover }) {
  const traces = (c) => [
    ...(window > 1 ? [unsmoothed(painted, colourOf(c, found, painted))] : []),
    ...found.courses.map((course) => curve(found, course, "smoothed", colourOf(c, found, course))),
    ...(compared ? compared.vectors.map((v) => theirs(found, compared, v, c)) : []),
    ...found.courses.map((course) => committed(found, course, colourOf(c, found, course))).filter(Boolean),
  ];
  const layout = (c) => ({
    xaxis: tokenAxis(found),
    yaxis: { title: { text: UNITS[scale] }, zeroline: true, zerolinecolor: c.grey },
    hovermode: "x",
    ...places(c, found, painted),
  });
  const names = found.courses.map((c) => `${c.trait} ${c.method} ${c.layer}`);
  const table = {
    columns: ["token", "text", "role", ...names.flatMap((n) => [n, `${n} smoothed`, `${n} velocity`])],
    rows: found.tokens.map((text, i) => [i, text, roleAt(found, i), ...found.courses.flatMap((c) => valuesAt(c, i))]),
  };
  const note =
    (window > 1 ? `Trailing mean over ${window} tokens, prompt and response apart; faint: ${traitParts(painted.trait)[1]} unsmoothed. ` : "") +
    "Diamond: committed from there on.";
  return plot({ name: "course", title: "Scores", note, height: 340, traces, layout, table, onhover });
}

export function velocityPlot({ found, onhover }) {
  const traces = (c) => found.courses.map((course) => curve(found, course, "velocity", colourOf(c, found, course)));
  const layout = (c) => ({
    xaxis: tokenAxis(found),
    yaxis: { title: { text: "change per token" }, zeroline: true, zerolinecolor: c.grey },
    hovermode: "x",
    showlegend: false,
    ...places(c, found, null),
  });
  const table = {
    columns: ["token", "text", ...found.courses.map((c) => c.trait)],
    rows: found.tokens.map((text, i) => [i, text, ...found.courses.map((c) => c.velocity[i])]),
  };
  const about = { name: "velocity", title: "Velocity", note: "The smoothed score minus that of the token before.", height: 210 };
  return plot({ ...about, traces, layout, table, onhover });
}

export const tokenAxis = (found) => ({ title: { text: "token" }, showgrid: false, range: [-0.5, found.tokens.length - 0.5], zeroline: false });
export const colourOf = (c, found, course) => c.lines[Math.max(0, found.courses.indexOf(course)) % c.lines.length];
const valuesAt = (course, i) => [course.scores[i], course.smoothed[i], course.velocity[i]];
const roleAt = (found, i) => found.turns.find((t) => t.start <= i && i < t.end)?.role ?? "";

const curve = (found, course, what, colour) => ({
  type: "scatter",
  mode: "lines",
  x: course[what].map((_, i) => i),
  y: course[what],
  text: found.tokens.map((t) => literal(JSON.stringify(t))),
  name: traitParts(course.trait)[1],
  line: { color: colour, width: 2 },
  hovertemplate: `%{text} %{y:.3f}<extra>${traitParts(course.trait)[1]}</extra>`,
});

const unsmoothed = (course, colour) => ({
  type: "scatter",
  mode: "lines",
  y: course.scores,
  line: { color: faded(colour, 0.3), width: 1 },
  hoverinfo: "skip",
  showlegend: false,
});

const theirs = (found, compared, vector, c) => {
  const course = found.courses.find((o) => o.trait === vector.trait && o.method === vector.method && o.layer === vector.layer);
  return {
    type: "scatter",
    mode: "lines",
    y: vector.theirs,
    name: `${traitParts(vector.trait)[1]}, ${compared.other}`,
    line: { color: colourOf(c, found, course), width: 2, dash: "dot" },
    hovertemplate: `%{y:.3f}<extra>${compared.other}</extra>`,
  };
};

function committed(found, course, colour) {
  if (course.response === null || course.response.commitment === null) return null;
  const at = firstOf(found) + course.response.commitment;
  return {
    type: "scatter",
    mode: "markers",
    x: [at],
    y: [course.smoothed[at]],
    marker: { symbol: "diamond", size: 11, color: colour, line: { color: colour, width: 1 } },
    hoverinfo: "skip",
    showlegend: false,
  };
}

/** Where turns begin, and where the prompt set says that the trait should turn. */
function places(c, found, painted) {
  const at = (x, colour, dash, width) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: colour, dash, width } });
  const marks = found.turns.map((t) => at(t.start - 0.5, t.start === found.prompt_tokens ? c.soft : c.line, "solid", 1));
  const corner = { y: 1, yref: "paper", showarrow: false, xanchor: "left", yanchor: "top" };
  const said = (x, text, colour) => ({ ...corner, x, text, font: { size: 11, color: colour } });
  const names = found.turns.map((t) => said(t.start, t.role, c.soft));
  const point = painted?.known_point;
  if (!point) return { shapes: marks, annotations: painted ? names : [] };
  const known = { ...said(point.token, `${point.expect} expected`, c.neg), y: 0, yanchor: "bottom" };
  return { shapes: [...marks, at(point.token - 0.5, c.neg, "dash", 1.5)], annotations: [...names, known] };
}
