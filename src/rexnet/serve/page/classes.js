/** A classifier's answer: bars, and why. */
import { element, percent } from "./elements.js";
import { paintHeat } from "./overlay.js";

/** Fills `findings`; returns the answer in words. */
export function showClasses({ entry, model, result, stage, findings, onError }) {
  const why = model.explains ? whyPanel(stage) : null;
  const buttons = [];
  const rows = result.predictions.map((prediction) => {
    const name = prediction.class;
    let button = null;
    if (why) {
      const label = `Why ${name}?`;
      const press = () => toggle(button, buttons, () => entry.explanation(model, name), why, onError);
      button = element("button", { type: "button", "aria-pressed": "false", "aria-label": label, onclick: press }, "Why?");
      buttons.push(button);
    }
    return row(name, prediction.probability, button);
  });
  findings.append(element("ol", { class: "classes", "aria-label": "Classes, most probable first" }, ...rows));
  if (why) findings.append(why.panel);
  const [best] = result.predictions;
  const words = `${best.class}, ${percent(best.probability)}`;
  stage.describe(words);
  return words;
}

function row(name, probability, button) {
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", probability);
  const share = element("span", { class: "share" }, percent(probability));
  return element("li", {}, element("span", { class: "name" }, name), share, button, bar);
}

async function toggle(button, buttons, ask, why, onError) {
  const wasPressed = button.getAttribute("aria-pressed") === "true";
  for (const other of buttons) other.setAttribute("aria-pressed", String(other === button && !wasPressed));
  if (wasPressed) {
    why.hide();
    return;
  }
  why.wait();
  const isCurrent = () => button.getAttribute("aria-pressed") === "true";
  try {
    const explanation = await ask();
    if (isCurrent()) why.show(explanation);
  } catch (error) {
    if (!isCurrent()) return;
    button.setAttribute("aria-pressed", "false");
    why.fail(error);
    onError(error);
  }
}

/** The heat map's slider and words. */
function whyPanel(stage) {
  let shown = null;
  const slider = element("input", { type: "range", min: 0, max: 100, value: 80, oninput: paint });
  const words = element("p", { "aria-live": "polite" });
  const scale = element("p", { class: "scale", "aria-hidden": "true" }, "little", element("span"), "much");
  const strength = element("label", {}, "Strength of the overlay", slider);
  const panel = element("div", { class: "why", hidden: true }, words, scale, strength);

  function paint() {
    stage.clear();
    if (shown) paintHeat(stage.canvas, shown, slider.value / 100);
  }
  function set(explanation, sentence) {
    shown = explanation;
    panel.hidden = !sentence;
    scale.hidden = strength.hidden = !explanation;
    words.classList.remove("error");
    words.textContent = sentence;
    paint();
  }
  return {
    panel,
    hide: () => set(null, ""),
    wait: () => set(null, "Asking why…"),
    show: (explanation) => set(explanation, sentenceOf(explanation)),
    fail: (error) => {
      set(null, error.message);
      words.classList.add("error");
    },
  };
}

function sentenceOf({ class: name, probability, width, height, region, heatmap }) {
  const named = `${name} (${percent(probability)})`;
  const [left, top, right, bottom] = region;
  const cut = left > 1 || top > 1 || right < width - 1 || bottom < height - 1;
  const unseen = cut ? " The network does not see the dark margin." : "";
  if (heatmap.values.every((line) => line.every((value) => value === 0))) {
    return `Nothing in the picture speaks for ${named}.${unseen}`;
  }
  return `The brighter, the more it speaks for ${named}.${unseen}`;
}
