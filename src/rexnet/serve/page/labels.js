/** Labels of boxes, placed where they cover neither small objects nor other labels. */

/** Fraction of the image below which a box is small. */
const SMALL = 0.1;

const observer = new ResizeObserver(([{ target }]) => placeLabels(target));

/** Move the label of each box to the first free place around the box; hide it if there is none. */
export function placeLabels(boxes) {
  observer.observe(boxes);
  const image = boxes.getBoundingClientRect();
  const all = [...boxes.children].map((box) => ({ label: box.firstElementChild, area: box.getBoundingClientRect() }));
  const small = all.map(({ area }) => area).filter((area) => area.width * area.height < SMALL * image.width * image.height);
  const occupied = [...small];
  for (const { label, area } of all.reverse()) {
    label.hidden = false;
    const { width, height } = label.getBoundingClientRect();
    const place = placesAround(area, width, height).find(
      (place) => contains(image, place) && !occupied.some((other) => overlap(place, other)),
    );
    label.hidden = !place;
    if (!place) continue;
    occupied.push(place);
    label.style.left = `${place.left - area.left - label.parentElement.clientLeft}px`;
    label.style.top = `${place.top - area.top - label.parentElement.clientTop}px`;
  }
}

/** Yield above, below and, for objects that are large, inside; each at the left and at the right edge. */
function placesAround({ left, top, right, bottom }, width, height) {
  const rows = [top - height, bottom, top];
  const columns = [left, right - width];
  return rows.flatMap((y) => columns.map((x) => ({ left: x, top: y, right: x + width, bottom: y + height })));
}

function contains(outer, inner) {
  return inner.left >= outer.left - 1 && inner.top >= outer.top - 1 && inner.right <= outer.right + 1 && inner.bottom <= outer.bottom + 1;
}

function overlap(one, other) {
  // Allow a pixel of tolerance: edges that touch do not overlap.
  return one.left < other.right - 1 && other.left < one.right - 1 && one.top < other.bottom - 1 && other.top < one.bottom - 1;
}
