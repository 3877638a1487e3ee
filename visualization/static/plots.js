// The one module that knows plotly: drawing, redrawing in another theme, export.

import { announce, h } from "./dom.js";
import { palette } from "./palette.js";
import { onChange } from "./theme.js";

const live = new Set();
let library = null;

/** Load plotly once, when the first plot comes into sight. */
function load() {
  // its maps would write a style element into the page unless one of this name is there; they are not used, and the policy forbids it
  if (!library) document.head.append(h("meta", { id: "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53" }));
  library ??= new Promise((resolve, reject) => {
    const script = h("script", {
      src: "plotly.min.js",
      onload: () => resolve(window.Plotly),
      onerror: () => reject(new Error("plotly.js cannot be loaded")),
    });
    document.head.append(script);
  });
  return library;
}

/**
 * Return a plot with its title, its export buttons and its data as a table.
 *
 * spec: {title, note, name, height, traces(colours), layout(colours), table: {columns, rows} or a function, onpoint(point), onhover(x)}. It is
 * drawn when it comes into sight. `traces` and `layout` are functions because they are asked again in another theme.
 */
export function plot(spec) {
  const area = h("div", { class: "plot-area", role: "img", "aria-label": `${spec.title}. ${spec.note ?? ""}` });
  area.style.height = `${spec.height ?? 320}px`;
  const tools = h(
    "div",
    { class: "plot-tools", role: "group", "aria-label": `Export ${spec.title}` },
    ["PNG", "SVG", "CSV"].map((kind) => exporter(kind, spec, area)),
  );
  const head = h("div", { class: "plot-head" }, h("div", {}, h("h3", {}, spec.title), spec.note && h("p", {}, spec.note)), tools);
  sight.observe(area);
  area.draw = () => draw(area, spec);
  return h("figure", { class: "plot", "data-plot": spec.name }, head, area);
}

const sight = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      sight.unobserve(entry.target);
      live.add(entry.target);
      entry.target.draw();
    }
  },
  { rootMargin: "300px" },
);

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) if (target.drawn && target.isConnected) window.Plotly.Plots.resize(target);
});

async function draw(area, spec) {
  const Plotly = await load();
  if (!area.isConnected) return;
  const colours = palette();
  await Plotly.react(area, spec.traces(colours), merged(base(colours), spec.layout?.(colours) ?? {}), {
    displayModeBar: false,
    responsive: false,
    doubleClick: "reset",
  });
  if (!area.drawn && spec.onpoint) area.on("plotly_click", (event) => spec.onpoint(event.points[0]));
  if (!area.drawn && spec.onhover) area.on("plotly_hover", (event) => event.event?.isTrusted && spec.onhover(event.points[0].x)); // not what pointAt causes
  if (!area.drawn) sizes.observe(area);
  area.drawn = true;
  area.dataset.drawn = "yes";
}

onChange(() => {
  for (const area of live) {
    if (area.isConnected) area.draw();
    else forget(area);
  }
});

/** Draw again what has been drawn: its data have changed. */
export function redraw(figure) {
  const area = figure.querySelector(".plot-area");
  if (area.drawn && area.isConnected) area.draw();
}

/** Show a drawn plot's values at an x, as if the mouse were there. */
export function pointAt(figure, x) {
  const area = figure.querySelector(".plot-area");
  if (area.drawn && area.isConnected) window.Plotly.Fx.hover(area, { xval: x }, "xy");
}

/** Free what has left the page. */
export function sweep() {
  for (const area of live) if (!area.isConnected) forget(area);
}

function forget(area) {
  live.delete(area);
  sizes.unobserve(area);
  if (area.drawn) window.Plotly.purge(area);
}

function base(colours) {
  const axis = {
    gridcolor: colours.line,
    zerolinecolor: colours.line,
    linecolor: colours.line,
    tickcolor: colours.line,
    automargin: true,
    title: { standoff: 10 },
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "Inter, system-ui, sans-serif", size: 12, color: colours.soft },
    margin: { l: 52, r: 16, t: 12, b: 44 },
    hoverlabel: { bgcolor: colours.panel, bordercolor: colours.line, font: { color: colours.ink, size: 12 }, align: "left" },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 } },
    xaxis: axis,
    yaxis: axis,
    dragmode: false,
  };
}

function merged(under, over) {
  const result = { ...under };
  for (const [key, value] of Object.entries(over)) {
    const isPlain = value && typeof value === "object" && !Array.isArray(value);
    result[key] = isPlain ? merged(key.match(/^[xy]axis\d/) ? under[key.slice(0, 5)] : (under[key] ?? {}), value) : value;
  }
  return result;
}

/** Return a text as plotly shows it as itself: it reads a little markup in its labels. */
export const literal = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** A colour bar as all heatmaps have it. */
export const colourBar = (title) => ({ title: { text: title, side: "top" }, thickness: 10, outlinewidth: 0, len: 1, xpad: 8 });

function exporter(kind, spec, area) {
  const save = async () => {
    download(
      kind === "CSV" ? new Blob([csv(typeof spec.table === "function" ? spec.table() : spec.table)], { type: "text/csv" }) : await picture(kind.toLowerCase(), area),
      `${spec.name}.${kind.toLowerCase()}`,
    );
    announce(`${spec.name}.${kind.toLowerCase()} saved`);
  };
  return h("button", { class: "button small", type: "button", title: `Save as ${kind}`, "data-export": kind, onclick: save }, kind);
}

async function picture(format, area) {
  const Plotly = await load();
  const size = { width: area.clientWidth, height: area.clientHeight };
  const url = await Plotly.toImage(
    { data: area.data, layout: { ...area.layout, paper_bgcolor: palette().panel } },
    { format, scale: format === "png" ? 2 : 1, ...size },
  );
  const [head, body] = [url.slice(0, url.indexOf(",")), url.slice(url.indexOf(",") + 1)];
  if (!head.includes("base64")) return new Blob([decodeURIComponent(body)], { type: "image/svg+xml" });
  return new Blob([Uint8Array.from(atob(body), (c) => c.charCodeAt(0))], { type: "image/png" });
}

/** Return a table as CSV (RFC 4180). */
export function csv({ columns, rows }) {
  const cell = (value) =>
    value === null || value === undefined
      ? ""
      : /[",\r\n]/.test(String(value))
        ? `"${String(value).replaceAll('"', '""')}"`
        : String(value);
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
