/** Overlays of an image: heat maps and masks. */

/** Colours of a heat map from low to high, red green blue; brightness rises all the way. */
const HEAT = [
  [40, 16, 92],
  [136, 32, 120],
  [216, 66, 82],
  [250, 150, 40],
  [255, 240, 150],
];

/** Paint an answer of /explain over the image on `canvas`, which turns gray. `strength`: 0 to 1. */
export function paintHeat(canvas, { width, height, region, heatmap }, strength) {
  const context = canvas.getContext("2d");
  context.save();
  context.globalAlpha = Math.min(1, 1.5 * strength);
  context.globalCompositeOperation = "saturation"; // gray, so that no colour is confused with the heat
  context.fillStyle = "#808080";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = strength;
  context.scale(canvas.width / width, canvas.height / height);
  const [left, top, right, bottom] = region;
  context.fillStyle = "rgb(0 0 0 / 0.25)"; // colours are paler on a bright image
  context.fillRect(0, 0, width, height);
  context.fillStyle = "rgb(0 0 0 / 0.55)"; // outside the network's input
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(left, top, right - left, bottom - top);
  context.fill("evenodd");
  context.imageSmoothingQuality = "high";
  context.drawImage(heatImage(heatmap), left, top, right - left, bottom - top);
  context.restore();
}

function heatImage({ width, height, values }) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  values.flat().forEach((value, place) => image.data.set([...heatColour(value), 255 * (0.35 + 0.5 * value)], 4 * place));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Return the red, green and blue of a heat value from 0 to 1. */
export function heatColour(value) {
  const place = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
  const below = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[below].map((low, channel) => Math.round(low + (HEAT[below + 1][channel] - low) * (place - below)));
}

/** Return the colour of an object of an image, far from those of the objects with neighbouring numbers. */
export function instanceColour(index) {
  return `hsl(${Math.round(index * 222.5) % 360} 85% ${[45, 58, 36][index % 3]}%)`;
}

/** Tint the area of a mask. `counts`: its RLE, column by column, beginning with the background. */
export function paintMask(canvas, { size: [height, width], counts }, colour) {
  const context = canvas.getContext("2d");
  const across = canvas.width / width;
  const down = canvas.height / height;
  context.save();
  context.globalAlpha = 0.45;
  context.fillStyle = colour;
  for (const [column, from, to] of columnRuns(counts, height)) {
    // Round edges, not sizes, so that neighbours neither overlap nor leave a gap.
    const [left, right] = [Math.round(column * across), Math.round((column + 1) * across)];
    const [top, bottom] = [Math.round(from * down), Math.round(to * down)];
    if (right > left && bottom > top) context.fillRect(left, top, right - left, bottom - top);
  }
  context.restore();
}

/** Yield [column, first row, row after the last] of each covered piece. */
function* columnRuns(counts, height) {
  let position = 0;
  for (const [place, count] of counts.entries()) {
    const end = position + count;
    while (place % 2 && position < end) {
      const column = Math.floor(position / height);
      const stop = Math.min(end, (column + 1) * height);
      yield [column, position - column * height, stop - column * height];
      position = stop;
    }
    position = end;
  }
}
