/** A detector's answer: boxes, masks, and how sure they must be. */
import { element, percent } from "./elements.js";
import { LEAST_SCORE } from "./entry.js";
import { classColour, paintMask } from "./overlay.js";

const SHOWN_SCORE = 0.5;

/** Fills `findings`; returns the answer in words. */
export function showObjects({ model, result, stage, findings }) {
  const objects = result.objects.map((object) => ({
    ...object,
    colour: classColour(model.classes.indexOf(object.class)),
  }));
  const score = element("input", { type: "range", min: LEAST_SCORE, max: 1, step: 0.01, value: SHOWN_SCORE });
  const least = element("span", { class: "value" });
  const masks = element("input", { type: "checkbox", checked: true });
  const count = element("p", { "aria-live": "polite" });
  const list = element("ol", { class: "objects", "aria-label": "Objects, surest first" });
  let chosen = null;

  function show() {
    least.textContent = percent(Number(score.value));
    score.setAttribute("aria-valuetext", least.textContent);
    const sure = objects.filter((object) => object.score >= Number(score.value));
    if (!sure.includes(chosen)) chosen = null;
    count.textContent = `${sentence(sure)}${objects.length > sure.length ? ` ${objects.length - sure.length} less sure.` : ""}`;
    list.replaceChildren(...sure.map((object) => row(object, object === chosen, choose)));
    stage.describe(sentence(sure));
    paint(sure);
  }
  function paint(sure) {
    const visible = chosen ? [chosen] : sure;
    stage.clear();
    // The surest last, so that they lie on top.
    const upwards = [...visible].reverse();
    if (masks.checked) for (const { mask, colour } of upwards) if (mask) paintMask(stage.canvas, mask, colour);
    stage.boxes.replaceChildren(...upwards.map((object) => box(object, result)));
  }
  function choose(object) {
    chosen = object === chosen ? null : object;
    const place = [...list.children].findIndex((item) => item.contains(document.activeElement));
    show();
    list.children[place]?.querySelector("button").focus();
  }

  score.addEventListener("input", show);
  masks.addEventListener("change", show);
  const choice = model.masks ? element("label", { class: "check" }, masks, "Masks") : null;
  findings.append(element("label", {}, element("span", {}, "Least score ", least), score), ...[choice].filter(Boolean));
  findings.append(count, list);
  show();
  return count.textContent;
}

function row(object, isChosen, choose) {
  const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.backgroundColor = object.colour;
  const words = [element("span", { class: "name" }, object.class), element("span", { class: "share" }, percent(object.score))];
  const press = () => choose(object);
  const properties = { type: "button", title: "Show only this one", "aria-pressed": String(isChosen), onclick: press };
  return element("li", {}, element("button", properties, swatch, ...words));
}

function box({ class: name, score, box: [left, top, right, bottom], colour }, { width, height }) {
  const words = element("span", {}, `${name} ${percent(score)}`);
  const made = element("div", { class: top < 0.08 * height ? "box inward" : "box" }, words);
  Object.assign(made.style, {
    left: `${(100 * left) / width}%`,
    top: `${(100 * top) / height}%`,
    width: `${(100 * (right - left)) / width}%`,
    height: `${(100 * (bottom - top)) / height}%`,
    borderColor: colour,
  });
  words.style.borderColor = colour;
  return made;
}

/** "2 dogs"-free plurals: names come from the data, so each is only counted. */
function sentence(objects) {
  if (!objects.length) return "No object found.";
  const counts = new Map();
  for (const { class: name } of objects) counts.set(name, (counts.get(name) ?? 0) + 1);
  const named = [...counts].map(([name, count]) => (count > 1 ? `${count} × ${name}` : name)).join(", ");
  return `${objects.length} ${objects.length === 1 ? "object" : "objects"}: ${named}.`;
}
