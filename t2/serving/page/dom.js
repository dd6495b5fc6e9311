// Elements, numbers and times, as the other modules write them.

/** The element of this page with an id. */
export const at = (id) => document.getElementById(id);

/** A new element: its name, its properties, and what is in it. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Seconds with two or three digits: 0.042 s, 0.42 s, 4.2 s, 42 s. */
export function seconds(value) {
  const digits = value >= 10 ? 0 : value >= 1 ? 1 : value >= 0.1 ? 2 : 3;
  return `${value.toFixed(digits)} s`;
}

/** A share of one, in percent: 93 %, 6.5 %, < 0.1 %. */
export function percent(value) {
  if (value > 0 && value < 0.001) return "< 0.1 %";
  return `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
}
