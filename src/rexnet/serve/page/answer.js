/** The answer of one model for one image: findings beside the image, and the overlay on it. */
import { showClasses } from "./classes.js";
import { element, quantity } from "./elements.js";
import { showObjects } from "./objects.js";
import { stage } from "./stage.js";

/** Request the answer; the panel fills itself. `onAnswer` is called with the result, `onSummary` with its summary. */
export function answerPanel(entry, model, { onAnswer, onSummary, onError }) {
  const panel = { element: element("div", { class: "answer" }), paint: () => shown?.paint(stage) };
  let shown = null;

  function update() {
    stage.update(panel.paint);
    if (shown) onSummary(shown.summary());
  }

  async function fill() {
    panel.element.setAttribute("aria-busy", "true");
    panel.element.replaceChildren(element("p", { class: "soft" }, "Waiting for the answer…"));
    try {
      const answer = await entry.answer(model);
      const show = model.kind === "detector" ? showObjects : showClasses;
      shown = show({ entry, model, result: answer.result, update, onError });
      panel.element.replaceChildren(...shown.findings, details(model, answer));
      onAnswer(answer.result, shown.summary());
    } catch (error) {
      panel.element.replaceChildren(failure(error, fill));
      onError(error);
    }
    panel.element.removeAttribute("aria-busy");
    update();
  }

  fill();
  return panel;
}

/** Show the message of an error, and a button that retries where that may help. */
export function failure(error, retry) {
  const mayPass = error.status === 0 || error.status >= 500 || [408, 429].includes(error.status);
  const button = mayPass ? element("button", { type: "button", onclick: retry }, "Try again") : null;
  return element("div", { class: "error", role: "alert" }, element("p", {}, error.message), button);
}

/** Describe a model in a few words. */
export function modelFacts(model) {
  const size = model.image_size_px ? `, ${model.image_size_px} px` : "";
  return `${model.kind} of ${quantity(model.classes.length, "class", "classes")}${size}`;
}

function details(model, { result, milliseconds }) {
  const { decode, wait, compute } = result.milliseconds;
  const time = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  const rows = [
    ["Network", time(compute)],
    ["Decoding", time(decode)],
    ["Waiting", time(wait)],
    ["Total, including transfer", time(milliseconds)],
    ["Model", `${modelFacts(model)}, ${model.backend} ${model.precision}, version ${model.version}`],
  ];
  const terms = rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  return element("details", { class: "details" }, element("summary", {}, "Details"), element("dl", {}, ...terms));
}
