/** What one model says about one picture. */
import { showClasses } from "./classes.js";
import { element } from "./elements.js";
import { showObjects } from "./objects.js";
import { paintPicture } from "./overlay.js";

/** The card fills itself when the answer comes. `announce` gets a sentence then, `onError` an error. */
export function modelCard(entry, model, { announce, onError }) {
  const heading = element("h3", { id: `card ${model.name}`.replaceAll(" ", "-") }, model.name);
  const body = element("div", { class: "body" });
  const card = element("article", { class: "card panel", "aria-labelledby": heading.id }, heading, body);

  async function fill() {
    card.setAttribute("aria-busy", "true");
    body.replaceChildren(await waiting(entry));
    try {
      const answer = await entry.answer(model);
      const stage = makeStage(await entry.pictureFor(answer.result), entry.name);
      const show = model.kind === "detector" ? showObjects : showClasses;
      const findings = element("div", { class: "findings" });
      body.replaceChildren(stage.figure, findings);
      announce(`${model.name}: ${show({ entry, model, result: answer.result, stage, findings, onError })}`);
      findings.append(timing(answer));
    } catch (error) {
      body.replaceChildren(failure(error, fill));
      onError(error);
    }
    card.removeAttribute("aria-busy");
  }

  fill();
  return card;
}

/** The sentence of an error, and where that may help a button that calls `again`. */
export function failure(error, again) {
  const mayPass = error.status === 0 || error.status >= 500 || [408, 429].includes(error.status);
  const button = mayPass ? element("button", { type: "button", onclick: again }, "Try again") : null;
  return element("div", { class: "error", role: "alert" }, element("p", {}, error.message), button);
}

async function waiting(entry) {
  const picture = await entry.picture();
  const stage = picture ? makeStage(picture, entry.name).figure : null;
  return element("div", { class: "waiting" }, stage, element("p", { class: "soft" }, "Asking…"));
}

/** Where the picture is shown: `canvas` for what is painted, `boxes` for elements above it. */
function makeStage(picture, name) {
  const canvas = element("canvas", { role: "img", "aria-label": name });
  const boxes = element("div", { class: "boxes", "aria-hidden": "true" });
  const figure = element("figure", { class: "stage" }, canvas, boxes);
  paintPicture(canvas, picture);
  const describe = (text) => canvas.setAttribute("aria-label", text ? `${name}: ${text}` : name);
  return { figure, canvas, boxes, describe, clear: () => paintPicture(canvas, picture) };
}

function timing({ result, milliseconds }) {
  const { decode, wait, compute } = result.milliseconds;
  const shown = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  const parts = [
    ["network", compute],
    ["reading", decode],
    ["waiting", wait],
    ["in all, with transfer", milliseconds],
  ];
  const terms = parts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, shown(value))));
  return element("dl", { class: "timing", "aria-label": "Time" }, ...terms);
}
