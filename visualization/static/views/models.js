// Another model on the same tokens: where its projections differ.

import { h } from "../dom.js";
import { number, signed, range, traitParts } from "../format.js";
import { lineStyle } from "../palette.js";
import { plot } from "../plots.js";
import { address, state } from "../router.js";

export function comparisonPart(compared, item, onhover) {
  if (!compared.vectors.length) return h("p", { class: "notes" }, `${compared.other} was not projected on these vectors.`);
  const { experiment, other, n_prompts: n, over } = compared;
  const note = `${other} minus ${experiment} on the same tokens and vectors, over ${n} prompts (${over}).`;
  const head = h("div", {}, h("h3", {}, "Two models"), h("p", { class: "notes" }, note));
  return h("div", { class: "stack" }, head, overall(compared), differences(compared, onhover), stretches(compared, item));
}

function overall({ vectors }) {
  const head = ["", "mean difference [95 %]", "d", "p", "q", "prompts"].map((name) => h("th", { scope: "col" }, name));
  const row = (v) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, traitParts(v.trait)[1], h("span", { class: "note" }, ` ${v.method}, layer ${v.layer}`)),
      [spread(v.difference), signed(v.d, 2), number(v.p, 4), number(v.q, 4), v.n].map((text) => h("td", {}, text)),
    );
  return h("div", { class: "scroll" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, vectors.map(row))));
}

const spread = ({ mean, low, high }) => `${signed(mean, 2)} ${range(low, high, (x) => signed(x, 2))}`;

function differences({ vectors, other, experiment }, onhover) {
  const traces = (c) =>
    vectors.map((v, i) => ({
      type: "scatter",
      mode: "lines",
      y: v.differences,
      name: traitParts(v.trait)[1],
      line: lineStyle(c, i),
      hovertemplate: `%{y:+.3f}<extra>${traitParts(v.trait)[1]}</extra>`,
    }));
  const layout = (c) => ({
    xaxis: { title: { text: "token" }, showgrid: false, zeroline: false },
    yaxis: { title: { text: "difference of h·v̂" }, zeroline: true, zerolinecolor: c.grey },
    hovermode: "x",
  });
  const table = {
    columns: ["token", ...vectors.map((v) => `${v.trait} ${v.method} ${v.layer}`)],
    rows: vectors[0].differences.map((_, i) => [i, ...vectors.map((v) => v.differences[i])]),
  };
  const about = { name: "difference", title: `${other} − ${experiment}`, note: "Smoothed, on this prompt's tokens.", height: 240 };
  return plot({ ...about, traces, layout, table, onhover });
}

function stretches({ vectors }, item) {
  const rows = vectors.flatMap((v) => v.top.slice(0, 4).map((s) => ({ ...s, trait: v.trait })));
  const link = (s) => address("dynamics", { ...state().params, pid: s.id });
  const line = (s) =>
    h(
      "li",
      {},
      h("b", {}, signed(s.mean, 2)),
      ` ${traitParts(s.trait)[1]}, `,
      s.id === item.id ? `here, token ${s.start}: ` : [h("a", { href: link(s) }, s.id), `, token ${s.start}: `],
      h("span", { class: "text" }, `“${s.text.trim()}”`),
    );
  return h("details", {}, h("summary", {}, "Where they differ most"), h("ul", { class: "stretches" }, rows.map(line)));
}
