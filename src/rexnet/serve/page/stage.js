/** The image, shown once, with the overlay of the chosen answer. */

const figure = document.getElementById("stage");

class Stage {
  canvas = figure.querySelector("canvas");
  boxes = document.getElementById("boxes");
  #image = null;
  #name = "";
  #paint = null;

  /** Show an image; null: none. */
  setImage(image, name) {
    this.#image = image;
    this.#name = name;
    figure.hidden = !image;
    this.#repaint();
  }

  /** Show the overlay that `paint` adds to the stage. */
  show(paint) {
    this.#paint = paint;
    this.#repaint();
  }

  /** Repaint after a change, unless another overlay is shown. */
  update(paint) {
    if (paint === this.#paint) this.#repaint();
  }

  /** Describe the image and the overlay for screen readers. */
  describe(words) {
    this.canvas.setAttribute("aria-label", words ? `${this.#name}: ${words}` : this.#name);
  }

  #repaint() {
    this.boxes.replaceChildren();
    if (!this.#image) return;
    this.canvas.width = this.#image.width;
    this.canvas.height = this.#image.height;
    this.canvas.getContext("2d").drawImage(this.#image, 0, 0);
    this.describe("");
    this.#paint?.(this);
  }
}

export const stage = new Stage();
