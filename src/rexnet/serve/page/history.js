/** The images of this session, kept only in the memory of this page. */
import { element } from "./elements.js";

const MAX_ENTRIES = 24;

const section = document.getElementById("history");
const list = document.getElementById("entries");

export class History {
  #entries = [];
  #current = null;

  /** `onChoice` is called with an entry to show, or null when all are cleared. */
  constructor(onChoice) {
    this.onChoice = onChoice;
    document.getElementById("forget").addEventListener("click", () => {
      this.#entries = [];
      this.choose(null);
      document.getElementById("choose").focus();
    });
  }

  get current() {
    return this.#current;
  }

  /** Add the entries and show the first of them. */
  add(entries) {
    this.#entries = [...entries, ...this.#entries].slice(0, MAX_ENTRIES);
    this.choose(entries[0]);
  }

  choose(entry) {
    if (this.#current !== entry) this.#current?.release();
    this.#current = entry;
    this.#show();
    this.onChoice(entry);
  }

  #show() {
    section.hidden = !this.#entries.length;
    const focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
    list.replaceChildren(...this.#entries.map((entry) => this.#item(entry)));
    list.children[focused]?.querySelector("button").focus();
  }

  async #open(entry, place) {
    await entry.image();
    place.append(entry.thumbnail ?? "no preview");
    if (entry !== this.#current) entry.release();
  }

  #item(entry) {
    const place = element("span", { class: "thumbnail", "aria-hidden": "true" });
    const isCurrent = entry === this.#current;
    const properties = { type: "button", "aria-current": isCurrent && "true", onclick: () => this.choose(entry) };
    const button = element("button", properties, place, element("span", { class: "name" }, entry.name));
    if (entry.thumbnail) place.append(entry.thumbnail);
    else this.#open(entry, place);
    return element("li", {}, button);
  }
}
