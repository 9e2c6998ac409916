/** A detector's answer: boxes, masks, and how sure they must be. */
import { element, percent } from "./elements.js";
import { LEAST_SCORE } from "./entry.js";
import { classColour, paintMask } from "./overlay.js";

const SHOWN_SCORE = 0.5;

/** Fills `findings`; returns the answer in words. */
export function showObjects({ model, result, stage, findings }) {
  const objects = result.objects.map((object) => ({
    ...object,
    colour: classColour(1 + model.classes.indexOf(object.class)),
  }));
  const score = element("input", { type: "range", min: LEAST_SCORE, max: 1, step: 0.01, value: SHOWN_SCORE });
  const least = element("span", { class: "value" });
  const masks = element("input", { type: "checkbox", checked: true });
  const count = element("p", { "aria-live": "polite" });
  const list = element("ol", { class: "objects", "aria-label": "Objects, surest first" });
  let chosen = null;

  function show() {
    least.textContent = wholePercent(score.value);
    score.setAttribute("aria-valuetext", least.textContent);
    const sure = objects.filter((object) => object.score >= Number(score.value));
    if (!sure.includes(chosen)) chosen = null;
    const others = objects.length - sure.length;
    count.textContent = `${sentence(sure)}${others ? ` ${others} less sure.` : ""}`;
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
  findings.append(element("label", {}, "Least score ", least, score));
  if (model.masks) findings.append(element("label", { class: "check" }, masks, "Masks"));
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
  const words = element("span", {}, `${name} ${wholePercent(score)}`);
  const made = element("div", { class: "box" }, words);
  made.classList.toggle("inward", top < 0.08 * height); // where else the name would be cut off
  made.classList.toggle("leftward", left > 0.6 * width);
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

function wholePercent(share) {
  return `${Math.round(100 * share)} %`;
}

function sentence(objects) {
  if (!objects.length) return "No object found.";
  const counts = new Map();
  for (const { class: name } of objects) counts.set(name, (counts.get(name) ?? 0) + 1);
  const named = [...counts].map(([name, count]) => (count > 1 ? `${name} (${count})` : name)).join(", ");
  return `${objects.length} ${objects.length === 1 ? "object" : "objects"}: ${named}.`;
}
