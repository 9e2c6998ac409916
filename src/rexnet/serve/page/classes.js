/** The answer of a classifier: classes with bars, and an explanation of the chosen class. */
import { element, percent } from "./elements.js";
import { paintHeat } from "./overlay.js";

export function showClasses({ entry, model, result, update, onError }) {
  const explanation = model.explains ? new Explanation(entry, model, { update, onError }) : null;
  const rows = result.predictions.map(({ class: name, probability }) => {
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--fraction", probability);
    const parts = [element("span", { class: "name" }, name), element("span", { class: "value" }, percent(probability)), bar];
    if (!explanation) return element("div", { class: "class" }, ...parts);
    return element("button", { class: "class", type: "button", onclick: () => choose(name) }, ...parts);
  });
  const list = rows.map((row) => element("li", {}, row));
  const findings = [element("ol", { class: "classes", "aria-label": "Classes, most probable first" }, ...list)];
  const [best] = result.predictions;
  const summary = () => `${best.class}, ${percent(best.probability)}`;

  function choose(name) {
    rows.forEach((row, place) => row.setAttribute("aria-pressed", String(result.predictions[place].class === name)));
    explanation.choose(name);
  }
  function paint(stage) {
    stage.describe(summary());
    explanation?.paint(stage);
  }

  if (explanation) {
    findings.push(explanation.element);
    choose(best.class);
  }
  return { findings, summary, paint };
}

/** The "Why?" button, and the heat map of the chosen class with its text and slider. */
class Explanation {
  #name = "";
  #heat = null;
  #button = element("button", { type: "button", "aria-pressed": "false", onclick: () => this.#set(!this.#isOn) });
  #words = element("p", { "aria-live": "polite" });
  #scale = element("p", { class: "scale", "aria-hidden": "true" }, "low", element("span"), "high");
  #slider = element("input", { type: "range", min: 0, max: 100, value: 80 });
  #strength = element("label", {}, "Strength of the overlay", this.#slider);

  constructor(entry, model, { update, onError }) {
    this.request = (name) => entry.explanation(model, name);
    this.update = update;
    this.onError = onError;
    this.#slider.addEventListener("input", update);
    this.element = element("div", { class: "why" }, this.#button, this.#words, this.#scale, this.#strength);
    this.#show(null, "");
  }

  get #isOn() {
    return this.#button.getAttribute("aria-pressed") === "true";
  }

  choose(name) {
    this.#name = name;
    this.#button.textContent = `Why ${name}?`;
    this.#set(this.#isOn);
  }

  paint(stage) {
    if (this.#heat) paintHeat(stage.canvas, this.#heat, this.#slider.value / 100);
  }

  async #set(on) {
    const name = this.#name;
    this.#button.setAttribute("aria-pressed", String(on));
    this.#show(null, on ? "Waiting for the explanation…" : "");
    if (!on) return;
    const isCurrent = () => this.#isOn && this.#name === name;
    try {
      const heat = await this.request(name);
      if (isCurrent()) this.#show(heat, sentenceOf(heat));
    } catch (error) {
      if (!isCurrent()) return;
      this.#button.setAttribute("aria-pressed", "false");
      this.#show(null, error.message);
      this.#words.classList.add("error");
      this.onError(error);
    }
  }

  #show(heat, words) {
    this.#heat = heat;
    this.#words.textContent = words;
    this.#words.hidden = !words;
    this.#words.classList.remove("error");
    this.#scale.hidden = this.#strength.hidden = !heat;
    this.update();
  }
}

function sentenceOf({ class: name, probability, width, height, region, heatmap }) {
  const named = `${name} (${percent(probability)})`;
  const [left, top, right, bottom] = region;
  const isCut = left > 1 || top > 1 || right < width - 1 || bottom < height - 1;
  const margin = isCut ? " The network does not see the dark margin." : "";
  if (heatmap.values.every((row) => row.every((value) => value === 0))) {
    return `Nothing in the image supports ${named}.${margin}`;
  }
  return `Bright areas support ${named}.${margin}`;
}
