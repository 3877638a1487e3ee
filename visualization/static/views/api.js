// The API, as it describes itself.

import * as data from "../data.js";
import { h } from "../dom.js";
import { section } from "../parts.js";
import { pageHead } from "./head.js";

export const apiPage = { title: "API", keys: [], needsExperiment: false, mount };

async function mount() {
  const description = await data.description();
  const note = "Everything this dashboard shows can be read by a program. Answers are JSON; each field's type is listed below.";
  const head = pageHead("Read API", note, [
    h("a", { class: "button", href: "api/openapi.json", target: "_blank", rel: "noopener" }, "openapi.json"),
  ]);
  const paths = Object.entries(description.paths).map(([path, methods]) => operation(path, methods.get));
  const schemas = Object.entries(description.components.schemas).filter(([name]) => !/ValidationError/.test(name));
  return h(
    "div",
    {},
    head,
    section("Requests", "", null, h("div", { class: "stack" }, paths)),
    section(
      "Answers",
      "",
      null,
      h(
        "div",
        { class: "stack" },
        schemas.map(([name, schema]) => model(name, schema)),
      ),
    ),
  );
}

function operation(path, { summary, description, parameters = [], responses }) {
  const answer = typeName(responses["200"].content["application/json"].schema);
  const rows = parameters.map((p) => h("tr", {}, h("td", {}, p.name), h("td", {}, p.in), h("td", {}, typeName(p.schema))));
  const table = rows.length
    ? h(
        "div",
        { class: "scroll" },
        h(
          "table",
          { class: "plain" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ["Parameter", "In", "Type"].map((t) => h("th", { scope: "col" }, t)),
            ),
          ),
          h("tbody", {}, rows),
        ),
      )
    : null;
  return h(
    "div",
    {},
    h("h3", {}, h("code", {}, `GET ${path}`)),
    h("p", { class: "notes" }, `${description ?? summary} Answers ${answer}.`),
    table,
  );
}

function model(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([field, type]) => h("tr", {}, h("td", {}, field), h("td", {}, typeName(type))));
  return h(
    "details",
    {},
    h("summary", {}, name),
    h("p", { class: "notes" }, schema.description),
    h("div", { class: "scroll" }, h("table", { class: "plain" }, h("tbody", {}, rows))),
  );
}

function typeName(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" or ");
  if (schema.enum) return schema.enum.map((v) => `“${v}”`).join(" or ");
  if (schema.type === "array") return `list of ${schema.items ? typeName(schema.items) : schema.prefixItems.map(typeName).join(", ")}`;
  return schema.type ?? "anything";
}
