/** The page: which models, which picture, and a card for each pair. */
import { watchCamera } from "./camera.js";
import { failure, modelCard } from "./card.js";
import { element, say } from "./elements.js";
import { Entry } from "./entry.js";
import { History } from "./history.js";
import { watchIntake } from "./intake.js";
import { fetchModels, useKey } from "./server.js";

/** With more models only the first is asked unless the reader wants others. */
const ASKED_AT_ONCE = 3;

const choices = document.getElementById("models");
const answers = document.getElementById("answers");
const cards = document.getElementById("cards");
const trouble = document.getElementById("trouble");
const status = document.getElementById("status");
const keyForm = document.getElementById("key-form");

let models = [];
let chosen = new Set();
/** The cards of one picture; they stay when another model is asked as well. */
let shown = { entry: null, cards: new Map() };

const history = new History(showAnswers);

watchIntake(take, (sentence) => say(trouble, sentence));
watchCamera((file) => take([file]));
keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(keyForm.elements.key.value);
  keyForm.hidden = true;
  loadModels();
});
loadModels();

function take(files) {
  history.add(files.map((file) => new Entry(file)));
}

async function loadModels() {
  try {
    models = await fetchModels();
    chosen = new Set(models.length <= ASKED_AT_ONCE ? models : models.slice(0, 1));
    choices.replaceChildren(...models.map(modelChoice));
    shown = { entry: null, cards: new Map() };
    showAnswers(history.current);
  } catch (error) {
    choices.replaceChildren(failure(error, loadModels));
    onError(error);
  }
}

function modelChoice(model) {
  const box = element("input", { type: "checkbox", checked: chosen.has(model) });
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(model);
    else chosen.delete(model);
    showAnswers(history.current);
  });
  const facts = [
    `${model.kind} of ${model.classes.length} classes`,
    model.image_size_px ? `${model.image_size_px} px` : null,
    `${model.backend} ${model.precision}`,
  ].filter(Boolean);
  const words = element("span", {}, element("strong", {}, model.name), element("small", {}, facts.join(", ")));
  return element("label", { class: "check" }, box, words);
}

function showAnswers(entry) {
  answers.hidden = !entry;
  if (entry !== shown.entry) {
    shown = { entry, cards: new Map() };
    status.replaceChildren();
  }
  if (!entry || !models.length) {
    cards.replaceChildren();
    return;
  }
  const asked = models.filter((model) => chosen.has(model));
  const none = element("p", { class: "soft" }, "Choose a model above.");
  cards.replaceChildren(...(asked.length ? asked.map((model) => cardOf(entry, model)) : [none]));
  cards.classList.toggle("alone", asked.length === 1);
}

function cardOf(entry, model) {
  if (!shown.cards.has(model)) {
    const announce = (sentence) => entry === history.current && status.append(element("span", {}, `${sentence} `));
    shown.cards.set(model, modelCard(entry, model, { announce, onError }));
  }
  return shown.cards.get(model);
}

/** A server that wants a key gets one; everything else is said where it happened. */
function onError(error) {
  if (error.status !== 401 || !keyForm.hidden) return;
  keyForm.hidden = false;
  keyForm.elements.key.focus();
}
