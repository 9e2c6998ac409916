/** An image file as a canvas: small enough to be drawn often, large enough to be seen. */

const LARGEST_PX = 1280;
const SMALLEST_PX = 480;
const THUMBNAIL_PX = 112;

/** Open the image, upright. Rejects for a file that this browser cannot show. */
export async function openImage(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    return scaled(image, scaleOf(image.naturalWidth, image.naturalHeight));
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/** Make a gray image, in place of one that cannot be shown, of the size that the server reported. */
export function placeholder(width, height) {
  const scale = scaleOf(width, height);
  const canvas = blank(width * scale, height * scale);
  const context = canvas.getContext("2d");
  context.fillStyle = "#808890";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

/** Make a square from the middle of an image. */
export function thumbnail(image) {
  const canvas = blank(THUMBNAIL_PX, THUMBNAIL_PX);
  const side = Math.min(image.width, image.height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const left = (image.width - side) / 2;
  const top = (image.height - side) / 2;
  context.drawImage(image, left, top, side, side, 0, 0, THUMBNAIL_PX, THUMBNAIL_PX);
  return canvas;
}

function scaleOf(width, height) {
  const longer = Math.max(width, height);
  return longer < SMALLEST_PX ? Math.ceil(SMALLEST_PX / longer) : Math.min(1, LARGEST_PX / longer);
}

function scaled(image, scale) {
  const canvas = blank(image.naturalWidth * scale, image.naturalHeight * scale);
  const context = canvas.getContext("2d");
  // Do not smooth the pixels of a small image.
  context.imageSmoothingEnabled = scale <= 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function blank(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  return canvas;
}
