/** One picture of the session, with what the models said about it. */
import { openPicture, placeholder, thumbnail } from "./picture.js";
import { explain, predict } from "./server.js";

/** Objects that are less sure are not sent; the reader chooses among the others. */
export const LEAST_SCORE = 0.1;

export class Entry {
  #answers = new Map();
  #picture = null;

  constructor(file) {
    this.file = file;
    this.name = file.name || "picture";
    /** A small canvas, once the picture has been opened. */
    this.thumbnail = null;
  }

  /** What `model` says; asked once, and again after an error. */
  answer(model) {
    return this.#once(model.name, () => predict(this.file, { model: model.name, minScore: LEAST_SCORE }));
  }

  explanation(model, name) {
    return this.#once(`${model.name}\n${name}`, () => explain(this.file, { model: model.name, name }));
  }

  /** The picture as a canvas, null where this browser cannot show it. */
  picture() {
    this.#picture ??= openPicture(this.file).then((picture) => {
      this.thumbnail ??= thumbnail(picture);
      return picture;
    }, () => null);
    return this.#picture;
  }

  /** The same, or something gray of the size that `result` states. */
  async pictureFor(result) {
    return (await this.picture()) ?? placeholder(result.width, result.height);
  }

  /** Lets go of the large canvas; the file opens again when it is needed. */
  rest() {
    this.#picture = null;
  }

  #once(question, ask) {
    if (!this.#answers.has(question)) {
      const answer = ask();
      this.#answers.set(question, answer);
      answer.catch(() => this.#answers.delete(question));
    }
    return this.#answers.get(question);
  }
}
