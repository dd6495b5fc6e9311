// How far an expert's z is from 1: a cell for each layer and kind of matrix, and the same numbers as a table.

import { at, make } from "./dom.js";

const number = (value) => (value === null || value === undefined ? "–" : value.toPrecision(2));

/** Draw the answer of v1/t2/experts/NAME. */
export function drawHeatMap({ name, layers, modules, mean_abs: table }) {
  const known = table.flat().filter((value) => value !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const share = (value) => (high > low ? (value - low) / (high - low) : 1);
  const map = at("heat-map");
  map.style.setProperty("--layers", layers.length);
  map.replaceChildren(...modules.flatMap((module, column) => [
    make("span", { className: "row-name", textContent: module }),
    ...layers.map((layer, row) => cell(table[row][column], share, `Layer ${layer}, ${module}`)),
  ]), ...axis(layers));
  map.setAttribute("aria-label", summary(name, layers, modules, table, low, high));
  at("heat-low").textContent = number(low);
  at("heat-high").textContent = number(high);
  at("heat-table").replaceChildren(caption(name), head(modules), body(layers, table));
}

/** Say beside the map what is under the pointer. */
export function readCells() {
  const readout = at("heat-readout");
  const usual = readout.textContent;
  at("heat-map").addEventListener("pointerover", ({ target }) => {
    readout.textContent = target.dataset.says ?? usual;
  });
  at("heat-map").addEventListener("pointerleave", () => {
    readout.textContent = usual;
  });
}

function cell(value, share, where) {
  const element = make("span", { className: value === null ? "cell none" : "cell" });
  if (value !== null) element.style.setProperty("--share", `${(100 * share(value)).toFixed(1)}%`);
  element.dataset.says = `${where}: ${number(value)}`;
  return element;
}

/** The numbers of some layers, under the map. */
function axis(layers) {
  const every = Math.max(1, Math.ceil(layers.length / 6));
  const marks = layers.map((layer, row) =>
    make("span", { className: "mark", textContent: row % every === 0 ? layer : "" }));
  return [make("span", { className: "row-name", textContent: "layer" }), ...marks];
}

function summary(name, layers, modules, table, low, high) {
  const row = table.findIndex((values) => values.includes(high));
  const place = `layer ${layers[row]}, ${modules[table[row].indexOf(high)]}`;
  const size = `${layers.length} layers by ${modules.length} kinds of matrix`;
  return `Heat map of the expert ${name}: mean |z − 1| of ${size}, from ${number(low)} to ${number(high)}; most in `
    + `${place}. The table below has every number.`;
}

const caption = (name) => make("caption", { textContent: `Mean |z − 1| of the expert ${name}` });

function head(modules) {
  const names = modules.map((module) => make("th", { scope: "col", textContent: module }));
  return make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "layer" }), ...names));
}

function body(layers, table) {
  return make("tbody", {}, ...layers.map((layer, row) =>
    make("tr", {}, make("th", { scope: "row", textContent: layer }),
      ...table[row].map((value) => make("td", { textContent: number(value) })))));
}
