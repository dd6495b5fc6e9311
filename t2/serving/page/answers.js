// Pass 2: an answer as it streams, and what it took.

import { at, make, percent, seconds } from "./dom.js";

/** One of the two columns: its text, its line of state, and its numbers. */
export class Answer {
  /** `side` is what the ids of its elements begin with: base or adapted. */
  constructor(side) {
    this.side = side;
    this.box = at(`${side}-answer`);
    this.text = at(`${side}-text`);
    this.by = at(`${side}-by`);
    this.numbers = at(`${side}-numbers`);
  }

  /** Before the first token. */
  begin(by) {
    this.started = performance.now();
    this.first = null;
    this.t2 = this.tokens = null;
    this.box.setAttribute("aria-busy", "true");
    this.box.classList.remove("failed");
    this.text.replaceChildren();
    this.by.textContent = by;
    this.numbers.replaceChildren();
  }

  /** Take a chunk of the stream. */
  add(chunk) {
    if (chunk.t2) this.t2 = chunk.t2;
    if (chunk.usage) this.tokens = chunk.usage.completion_tokens;
    const text = chunk.choices[0]?.delta?.content;
    if (!text) return;
    this.first ??= (performance.now() - this.started) / 1000;
    this.text.append(text);
  }

  /** After the last token. */
  end() {
    this.box.removeAttribute("aria-busy");
    this.numbers.replaceChildren(...this.#measured().flatMap(([name, value]) =>
      [make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))]));
  }

  /** An answer that was refused, or broke off: the sentence stands under what has come. */
  fail(sentence) {
    this.end();
    this.box.classList.add("failed");
    this.text.append(make("span", { className: "failure", textContent: sentence }));
  }

  #measured() {
    const { pass1_s, pass2_s, mixing_weights: weights = {} } = this.t2 ?? {};
    const rows = [];
    if (pass1_s) rows.push(["Pass 1", seconds(pass1_s)]);
    if (pass2_s) rows.push(["Pass 2", seconds(pass2_s)]);
    if (this.first !== null) rows.push(["First token", seconds(this.first)]);
    if (this.tokens) rows.push(["Tokens", String(this.tokens)]);
    if (this.tokens && pass2_s) rows.push(["Tokens/s", (this.tokens / pass2_s).toFixed(1)]);
    return rows;
  }
}

/** A mixture in words: `sums 1.00, reading 0.30`, or `the base` where all weights are 0. */
export function inWords(weights) {
  const used = Object.entries(weights).filter(([, weight]) => weight !== 0);
  return used.length === 0 ? "no expert" : used.map(([name, weight]) => `${name} ${weight.toFixed(2)}`).join(", ");
}

/** What pass 1 found, in a sentence. */
export function found({ label, scores }) {
  if (label === null || label === undefined) return "";
  const likelihood = scores[label] === undefined ? "" : `, ${percent(scores[label])}`;
  return `${label}${likelihood}`;
}
