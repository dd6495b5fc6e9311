// Pass 1: the likelihood of each label as bars, and the mixing weights as sliders, chosen by the model or set by hand.

import { at, make, percent } from "./dom.js";

const LARGEST = 1.5; // of a slider; a weight from outside 0 to 1.5 widens its own
const STEP = 0.05;

/** The bars: a row for each label. */
export class Likelihoods {
  constructor(labels) {
    this.rows = new Map();
    const rows = labels.map((label) => {
      const bar = make("span", { className: "fill" });
      const value = make("span", { className: "value", textContent: "–" });
      const row = make("li", {}, make("span", { className: "name", textContent: label }),
        make("span", { className: "bar" }, bar), value);
      this.rows.set(label, { row, bar, value });
      return row;
    });
    at("likelihoods").replaceChildren(...rows);
  }

  /** Show the scores of pass 1, by label; one without a score shows a dash. */
  show(scores, chosen, note) {
    for (const [label, { row, bar, value }] of this.rows) {
      const score = scores[label];
      bar.style.inlineSize = `${100 * Math.min(1, Math.max(0, score ?? 0))}%`;
      value.textContent = score === undefined ? "–" : percent(score);
      row.classList.toggle("chosen", label === chosen);
      if (label === chosen) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
    at("likelihoods-note").textContent = note;
  }
}

/** The sliders: one for each expert. */
export class Weights {
  /** `onHand` is called when the first slider is moved. */
  constructor(experts, onHand) {
    this.values = {};
    this.byHand = false;
    this.rows = new Map();
    const rows = experts.map(({ name, description }) => {
      const id = `weight-${name}`;
      const input = make("input", { type: "range", id, min: 0, max: LARGEST, step: STEP, value: 0 });
      const value = make("output", { className: "value", htmlFor: id, textContent: "–" });
      input.setAttribute("aria-describedby", `${id}-about`);
      input.addEventListener("input", () => this.#move(name, Number(input.value), onHand));
      this.rows.set(name, { input, value });
      this.values[name] = 0;
      const label = make("label", { className: "name", htmlFor: id, textContent: name });
      const about = make("p", { className: "about", id: `${id}-about`, textContent: description });
      return make("li", {}, label, input, value, about);
    });
    at("weights").replaceChildren(...rows);
    this.reset();
  }

  /** Show the weights that the model has chosen. */
  show(weights) {
    Object.assign(this.values, weights);
    this.#draw();
  }

  /** Nothing is chosen yet, and nothing is set by hand. */
  reset() {
    this.byHand = false;
    for (const name of this.rows.keys()) this.values[name] = 0;
    this.#draw();
    for (const { value } of this.rows.values()) value.textContent = "–";
  }

  #move(name, weight, onHand) {
    const isFirst = !this.byHand;
    this.values[name] = weight;
    this.byHand = true;
    this.#draw();
    if (isFirst) onHand();
  }

  #draw() {
    for (const [name, { input, value }] of this.rows) {
      const weight = this.values[name];
      input.min = Math.min(0, weight);
      input.max = Math.max(LARGEST, weight);
      input.step = this.byHand ? STEP : "any"; // a chosen weight is shown as it is
      input.value = weight;
      value.textContent = weight.toFixed(2);
    }
  }
}
