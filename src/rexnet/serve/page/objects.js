/** The answer of a detector: boxes, masks and labels, above a score threshold, which is the model's until the user chooses another. */
import { element, percent, quantity, wholePercent } from "./elements.js";
import { leastScore } from "./entry.js";
import { placeLabels } from "./labels.js";
import { instanceColour, paintMask } from "./overlay.js";

export function showObjects({ model, result, update }) {
  const objects = result.objects.map((object, place) => ({ ...object, colour: instanceColour(place) }));
  model.threshold ??= model.score_threshold;
  const slider = element("input", { type: "range", min: leastScore(model), max: 1, step: 0.01, value: model.threshold });
  const shownThreshold = element("span", { class: "value" });
  const masks = element("input", { type: "checkbox", checked: true, onchange: update });
  const count = element("p", { "aria-live": "polite" });
  const best = element("button", { type: "button", onclick: () => setThreshold(Math.floor(100 * objects[0].score) / 100) });
  const list = element("ol", { class: "objects", "aria-label": "Objects, highest score first" });
  let chosen = null;

  const above = () => objects.filter((object) => object.score >= model.threshold);
  const named = ({ class: name, score }) => `${name}, ${wholePercent(score)}`;

  function summary() {
    const found = above();
    if (found.length) return sentence(found);
    return objects.length ? `No object above ${wholePercent(model.threshold)}; best: ${named(objects[0])}.` : "No object found.";
  }

  function show() {
    const found = above();
    if (!found.includes(chosen)) chosen = null;
    shownThreshold.textContent = wholePercent(model.threshold);
    slider.setAttribute("aria-valuetext", shownThreshold.textContent);
    const weaker = objects.length - found.length;
    count.textContent = `${summary()}${found.length && weaker ? ` ${weaker} below ${wholePercent(model.threshold)}.` : ""}`;
    best.hidden = found.length > 0 || !objects.length;
    if (!best.hidden) best.textContent = `Show the best: ${named(objects[0])}`;
    list.replaceChildren(...found.map((object) => row(object, object === chosen, choose)));
    update();
  }
  function setThreshold(value) {
    slider.value = model.threshold = value;
    show();
  }
  function choose(object) {
    chosen = object === chosen ? null : object;
    const place = [...list.children].findIndex((item) => item.contains(document.activeElement));
    show();
    list.children[place]?.querySelector("button").focus();
  }
  function paint(stage) {
    if (slider.value !== String(model.threshold)) setThreshold(model.threshold); // changed on another image
    const found = above();
    // Add the best object last, so that it is on top.
    const visible = (chosen ? [chosen] : found).toReversed();
    stage.describe(summary());
    if (masks.checked) for (const { mask, colour } of visible) if (mask) paintMask(stage.canvas, mask, colour);
    stage.boxes.replaceChildren(...visible.map((object) => box(object, result)));
    placeLabels(stage.boxes);
  }

  slider.addEventListener("input", () => setThreshold(Number(slider.value)));
  show();
  const threshold = element("label", {}, "Score threshold ", shownThreshold, slider);
  const checkbox = model.masks ? element("label", { class: "check" }, masks, "Masks") : null;
  return {
    findings: [threshold, checkbox, count, best, list].filter(Boolean),
    summary,
    paint,
  };
}

function row(object, isChosen, choose) {
  const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.backgroundColor = object.colour;
  const words = [element("span", { class: "name" }, object.class), element("span", { class: "value" }, percent(object.score))];
  const press = () => choose(object);
  const properties = { type: "button", title: "Show only this object", "aria-pressed": String(isChosen), onclick: press };
  return element("li", {}, element("button", properties, swatch, ...words));
}

function box({ class: name, score, box: [left, top, right, bottom], colour }, { width, height }) {
  const label = element("span", {}, `${name} ${wholePercent(score)}`);
  label.style.borderColor = colour;
  const made = element("div", { class: "box" }, label);
  Object.assign(made.style, {
    left: `${(100 * left) / width}%`,
    top: `${(100 * top) / height}%`,
    width: `${(100 * (right - left)) / width}%`,
    height: `${(100 * (bottom - top)) / height}%`,
    borderColor: colour,
  });
  return made;
}

function sentence(objects) {
  const counts = new Map();
  for (const { class: name } of objects) counts.set(name, (counts.get(name) ?? 0) + 1);
  const named = [...counts].map(([name, count]) => (count > 1 ? `${name} (${count})` : name)).join(", ");
  return `${quantity(objects.length, "object", "objects")}: ${named}.`;
}
