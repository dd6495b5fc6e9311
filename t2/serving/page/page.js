// The page: what the server has, the form, and a run of two answers side by side.

import { Answer, found, inWords } from "./answers.js";
import { chat, get, useKey } from "./api.js";
import { at, make, seconds } from "./dom.js";
import { drawHeatMap, readCells } from "./heat_map.js";
import { Likelihoods, Weights } from "./pass1.js";

const base = new Answer("base");
const adapted = new Answer("adapted");
let likelihoods = null;
let weights = null;
let running = null; // the AbortController of the answers that stream
let drawing = 0; // how many heat maps were asked for: the last one counts

/** Ask what the server has, and show it. */
async function load() {
  let pool;
  try {
    pool = await get("v1/t2/pool");
  } catch (error) {
    refused(error);
    return;
  }
  at("notice").hidden = at("key-form").hidden = true;
  at("base-model").textContent = `Base model: ${pool.base_model.split("/").at(-1)}`;
  at("base-model").title = pool.base_model;
  const domains = pool.experts.map((expert) => expert.name);
  likelihoods = new Likelihoods([...domains, "other"]);
  weights = new Weights(pool.experts, byHand);
  at("model").replaceChildren(...choices("Two passes", pool.strategies), ...choices("Always one expert", domains));
  at("examples").replaceChildren(...Object.entries(pool.examples).flatMap(exampleButtons));
  at("expert").replaceChildren(...domains.map((name) => make("option", { textContent: name })));
  const adapts = domains.length > 0;
  for (const id of ["pass1", "adapted-answer", "expert-section"]) at(id).hidden = !adapts;
  at("model").closest(".field").hidden = !adapts;
  if (!adapts) {
    say("This server has no experts: start it with experts=POOL, and the page shows what they change.");
    return;
  }
  chosenAgain();
  at("expert").onchange = () => showExpert(pool.experts);
  await showExpert(pool.experts);
}

function choices(label, names) {
  const options = names.map((name) => make("option", { textContent: name }));
  return names.length ? [make("optgroup", { label }, ...options)] : [];
}

function exampleButtons([domain, prompts]) {
  return prompts.map((prompt) => {
    const shown = make("span", { textContent: prompt });
    const button = make("button", { type: "button", className: "example", title: prompt },
      make("b", { textContent: domain }), " ", shown);
    button.addEventListener("click", () => {
      at("prompt").value = prompt;
      at("prompt").focus();
    });
    return button;
  });
}

async function showExpert(experts) {
  const about = experts.find((expert) => expert.name === at("expert").value);
  const { val_before: before, val_after: after } = about;
  const isScored = typeof before === "number" && typeof after === "number";
  const scores = isScored ? `: score ${before.toFixed(2)} before, ${after.toFixed(2)} after` : "";
  const numbers = `${about.numbers.toLocaleString("en")} numbers, trained on ${about.task}`;
  at("expert-about").textContent = [about.description, numbers + scores].filter(Boolean).join(". ") + ".";
  const mine = ++drawing;
  try {
    const table = await get(`v1/t2/experts/${encodeURIComponent(about.name)}`);
    if (mine === drawing) drawHeatMap(table);
  } catch (error) {
    refused(error);
  }
}

/** The state of the sliders in words, and the way back. */
function byHand() {
  at("weights-note").textContent = "Set by hand: pass 1 does not run.";
  at("back").textContent = `Back to ${at("model").value}`;
  at("back").hidden = false;
}

function chosenAgain() {
  weights.reset();
  at("weights-note").textContent = "Move one to set the mixture by hand.";
  at("back").hidden = true;
}

function say(sentence) {
  at("notice").textContent = sentence;
  at("notice").hidden = false;
}

/** Show the server's sentence; where it wants a key, the field for one. */
function refused(error) {
  say(error.message);
  if (error.status !== 401) return;
  at("key-form").hidden = false;
  at("key").focus();
}

/** Both answers, as they stream. */
async function run() {
  if (likelihoods === null) await load(); // the server was not there, or wanted a key
  if (likelihoods === null) return;
  running?.abort();
  const mine = (running = new AbortController());
  at("stop").disabled = false;
  at("notice").hidden = true;
  at("state").textContent = "Answering.";
  const request = {
    messages: [{ role: "user", content: at("prompt").value }],
    max_tokens: Number(at("max-tokens").value),
    temperature: Number(at("temperature").value),
    seed: Math.floor(Math.random() * 2 ** 32), // the same for both, so that chance is no difference
  };
  const ways = [stream(base, { ...request, model: "base" }, mine.signal, "no expert")];
  if (!at("adapted-answer").hidden) ways.push(adapt({ ...request, model: at("model").value }, mine.signal));
  const errors = (await Promise.all(ways)).filter(Boolean);
  if (running !== mine) return; // a later run has the page
  running = null;
  finished(errors);
}

function finished(errors) {
  if (document.activeElement === at("stop")) at("run").focus();
  at("stop").disabled = true;
  const wantsKey = errors.find((error) => error.status === 401);
  if (wantsKey) refused(wantsKey);
  const texts = [["Base", base], ["Adapted", adapted]].map(([name, answer]) => `${name}: ${answer.text.textContent}`);
  at("state").textContent = errors.length ? errors[0].message : `Both answers are there. ${texts.join(" ")}`;
}

/** The adapted answer: by pass 1, or by the sliders where one was moved. */
function adapt(request, signal) {
  if (weights.byHand) {
    likelihoods.show({}, null, "Pass 1 did not run: the mixture is set by hand.");
    request.t2 = { mixing_weights: { ...weights.values } };
  } else {
    likelihoods.show({}, null, "Pass 1 runs.");
  }
  return stream(adapted, request, signal, "", (t2) => {
    const by = request.t2 ? "by hand" : found(t2) || "always";
    adapted.by.textContent = `${request.t2 ? "" : `${request.model}: `}${by} → ${inWords(t2.mixing_weights)}`;
    if (request.t2) return;
    const chosen = `The label is ${t2.label}, after ${seconds(t2.pass1_s)}.`;
    likelihoods.show(t2.scores, t2.label, t2.label === null ? `${request.model} is applied to every prompt.` : chosen);
    if (!weights.byHand) weights.show(t2.mixing_weights);
  });
}

/** Fill a column from a stream; the error that ended it, if one did. */
async function stream(answer, request, signal, by, onPass1 = () => {}) {
  answer.begin(by);
  try {
    for await (const chunk of chat(request, signal)) {
      if (chunk.t2 && answer.t2 === null) onPass1(chunk.t2);
      answer.add(chunk);
    }
    answer.end();
    return null;
  } catch (error) {
    const sentence = error.name === "AbortError" ? "Stopped." : error.message;
    if (!signal.aborted || running?.signal === signal) answer.fail(sentence);
    return error.name === "AbortError" ? new Error(sentence) : error;
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
  event.preventDefault();
  at("ask").requestSubmit();
});
at("stop").addEventListener("click", () => running?.abort());
at("back").addEventListener("click", () => {
  chosenAgain();
  at("model").focus();
});
at("model").addEventListener("change", chosenAgain);
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    useKey(at("key").value.trim());
  } catch (error) {
    refused(error);
    return;
  }
  at("key").value = "";
  load();
});
readCells();
load();
