/** The page: the models as tabs, the images, and the answer of each model for each image. */
import { answerPanel, failure, modelFacts } from "./answer.js";
import { watchCamera } from "./camera.js";
import { element, showMessage } from "./elements.js";
import { Entry } from "./entry.js";
import { History } from "./history.js";
import { watchIntake } from "./intake.js";
import { fetchModels, useKey } from "./server.js";
import { stage } from "./stage.js";

/** Maximum number of models that are all requested at once; with more, only the one whose tab is chosen. */
const REQUESTED_AT_ONCE = 3;

const about = document.getElementById("models");
const answers = document.getElementById("answers");
const tabs = document.getElementById("tabs");
const panelPlace = document.getElementById("panel");
const trouble = document.getElementById("trouble");
const status = document.getElementById("status");
const keyForm = document.getElementById("key-form");

let models = [];
let chosen = null;
/** The panels of one image by model. */
let shown = { entry: null, panels: new Map() };

const history = new History(showAnswers);

watchIntake(take, (message) => showMessage(trouble, message));
watchCamera((file) => take([file]));
tabs.addEventListener("keydown", moveAlongTabs);
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
    [chosen] = models;
    about.replaceChildren(...models.map((model) => element("p", {}, element("strong", {}, model.name), `, ${modelFacts(model)}`)));
    tabs.replaceChildren(...models.map(makeTab));
    shown = { entry: null, panels: new Map() };
    showAnswers(history.current);
  } catch (error) {
    about.replaceChildren(failure(error, loadModels));
    onError(error);
  }
}

function makeTab(model, place) {
  const properties = { type: "button", role: "tab", id: `tab-${place}`, "aria-controls": "panel", onclick: () => choose(model) };
  return element("button", properties, element("span", { class: "name" }, model.name), element("small"));
}

function showAnswers(entry) {
  answers.hidden = !entry;
  if (entry !== shown.entry) {
    shown = { entry, panels: new Map() };
    status.replaceChildren();
    stage.setImage(null, "");
    for (const tab of tabs.children) tab.querySelector("small").textContent = "";
  }
  if (!entry || !models.length) return;
  entry.image().then((image) => image && entry === history.current && stage.setImage(image, entry.name));
  if (models.length <= REQUESTED_AT_ONCE) models.forEach((model) => panelOf(entry, model));
  choose(chosen);
}

function choose(model) {
  chosen = model;
  models.forEach((one, place) => {
    tabs.children[place].setAttribute("aria-selected", String(one === model));
    tabs.children[place].tabIndex = one === model ? 0 : -1;
  });
  panelPlace.setAttribute("aria-labelledby", `tab-${models.indexOf(model)}`);
  const panel = panelOf(shown.entry, model);
  panelPlace.replaceChildren(panel.element);
  stage.show(panel.paint);
}

function moveAlongTabs(event) {
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const place = (models.indexOf(chosen) + moves[event.key] + models.length) % models.length;
  choose(models[place]);
  tabs.children[place].focus();
}

function panelOf(entry, model) {
  if (!shown.panels.has(model)) {
    const onSummary = (summary) => {
      if (entry === history.current) tabs.children[models.indexOf(model)].querySelector("small").textContent = summary;
    };
    const onAnswer = async (result, summary) => {
      if (entry !== history.current) return;
      status.append(element("span", {}, `${model.name}: ${summary} `));
      if (!(await entry.image()) && entry === history.current) stage.setImage(await entry.imageFor(result), entry.name);
    };
    shown.panels.set(model, answerPanel(entry, model, { onAnswer, onSummary, onError }));
  }
  return shown.panels.get(model);
}

/** Ask for the API key if the server needs one; other errors are shown where they occur. */
function onError(error) {
  if (error.status !== 401 || !keyForm.hidden) return;
  keyForm.hidden = false;
  keyForm.elements.key.focus();
}
