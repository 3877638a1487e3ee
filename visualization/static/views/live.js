// The scores of the shown branch's replies, drawn while they come.

import { traitParts } from "../format.js";
import { lineStyle } from "../palette.js";
import { plot, redraw } from "../plots.js";

const PAUSE = 120; // milliseconds between two drawings

/** Return a plot of the conversation's scores; `follow()` draws what is new. */
export function livePlot(self) {
  const replies = () => self.talk.path().filter((m) => m.role === "assistant");
  const steps = () => replies().flatMap((m) => m.tokens);
  const traces = (c) =>
    self.state.traits.map(({ trait }, i) => ({
      type: "scatter",
      mode: "lines",
      y: steps().map((s) => s.scores[trait]),
      name: traitParts(trait)[1],
      line: lineStyle(c, i),
      hovertemplate: `%{y:+.2f}<extra>${traitParts(trait)[1]}</extra>`,
    }));
  const layout = (c) => ({
    xaxis: { title: { text: "token of the replies" }, showgrid: false, rangemode: "tozero", zeroline: false },
    yaxis: { title: { text: "h·v̂ − centre" }, zeroline: true, zerolinecolor: c.grey },
    hovermode: "x",
    showlegend: true,
    shapes: starts(replies()).map((x) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: c.line, width: 1 } })),
  });
  const names = self.state.traits.map((t) => t.trait);
  const table = () => ({ columns: ["token", "text", ...names], rows: steps().map((s, i) => [i, s.text, ...names.map((n) => s.scores[n])]) });
  const note = "Centered projection of every token of the replies; lines: where a reply begins.";
  const figure = plot({ name: "live", title: "Token by token", note, height: 300, traces, layout, table });
  let timer = null;
  figure.follow = () => {
    timer ??= setTimeout(() => {
      timer = null;
      redraw(figure);
    }, PAUSE);
  };
  return figure;
}

function starts(replies) {
  const found = [];
  let n = 0;
  for (const reply of replies) {
    found.push(n - 0.5);
    n += reply.tokens.length;
  }
  return found.slice(1);
}
