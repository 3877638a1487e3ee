// Colours of plots. Scales that colour-blind readers can order: one hue for amounts, blue to orange for what has a sign.

import { current } from "./theme.js";

const LIGHT = {
  ink: "#1c1d20",
  soft: "#55585f",
  line: "#e2e2dd",
  panel: "#ffffff",
  accent: "#3a5bc7",
  pos: "#2a62b8",
  neg: "#d97706",
  grey: "#a4a8b0",
  sequential: [
    [0, "#f3f5fb"],
    [0.25, "#c3d0f0"],
    [0.5, "#8099dd"],
    [0.75, "#4360bb"],
    [1, "#1b2c6b"],
  ],
  diverging: [
    [0, "#a34e00"],
    [0.25, "#e8a45c"],
    [0.5, "#f6f5f2"],
    [0.75, "#82a9e0"],
    [1, "#1c4b9c"],
  ],
  lines: ["#3a5bc7", "#d97706", "#0d8a72", "#b0417c", "#7a7e87", "#8a5a2b"],
};
const DARK = {
  ink: "#e9eaec",
  soft: "#b1b5be",
  line: "#2d3037",
  panel: "#1a1c20",
  accent: "#93abff",
  pos: "#7fb0ff",
  neg: "#f0a04b",
  grey: "#6d727d",
  sequential: [
    [0, "#20232b"],
    [0.25, "#2d3c6e"],
    [0.5, "#4d67b8"],
    [0.75, "#86a0ec"],
    [1, "#dbe4ff"],
  ],
  diverging: [
    [0, "#ffb469"],
    [0.25, "#9c5f1e"],
    [0.5, "#25272c"],
    [0.75, "#33588f"],
    [1, "#8fbaff"],
  ],
  lines: ["#93abff", "#f0a04b", "#5cc8ae", "#e58cba", "#9ba0aa", "#cfa06f"],
};

export const palette = () => (current() === "dark" ? DARK : LIGHT);

const DASHES = ["solid", "dot", "dashdot"];

/** Return the look of the i-th line of a plot: where the colours end they come again, dotted. */
export const lineStyle = (c, i) => ({ color: c.lines[i % c.lines.length], dash: DASHES[Math.floor(i / c.lines.length) % DASHES.length], width: 2 });

/** Return a colour with an opacity: "#rrggbb" → "rgba(…)". */
export function faded(colour, opacity) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${opacity})`;
}
