/** An image of the session, with the answers of the models. */
import { openImage, placeholder, thumbnail } from "./image.js";
import { explain, predict } from "./server.js";

/** Minimum score of the objects requested from a detector. */
export const leastScore = (model) => Math.min(0.05, model.score_threshold);

export class Entry {
  #answers = new Map();
  #image = null;

  constructor(file) {
    this.file = file;
    this.name = file.name || "image";
    /** A small canvas, once the image has been opened. */
    this.thumbnail = null;
  }

  /** The answer of `model`, requested once, and again after an error. */
  answer(model) {
    const options = model.kind === "detector" ? { min_score: leastScore(model) } : {};
    return this.#once(model.name, () => predict(this.file, { model: model.name, ...options }));
  }

  explanation(model, name) {
    return this.#once(`${model.name}\n${name}`, () => explain(this.file, { model: model.name, name }));
  }

  /** The image as a canvas; null if this browser cannot show it. */
  image() {
    this.#image ??= openImage(this.file).then((image) => {
      this.thumbnail ??= thumbnail(image);
      return image;
    }, () => null);
    return this.#image;
  }

  /** The image as a canvas, or a gray image of the size in `result`. */
  async imageFor(result) {
    return (await this.image()) ?? placeholder(result.width, result.height);
  }

  /** Free the large canvas; the file is opened again when it is needed. */
  release() {
    this.#image = null;
  }

  #once(key, request) {
    if (!this.#answers.has(key)) {
      const answer = request();
      this.#answers.set(key, answer);
      answer.catch(() => this.#answers.delete(key));
    }
    return this.#answers.get(key);
  }
}
