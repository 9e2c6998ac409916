/** Create an element from its properties (classes, attributes, handlers such as onclick) and children or strings. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Show a message in an element that is hidden without one. */
export function showMessage(place, message) {
  place.textContent = message;
  place.hidden = !message;
}

export function quantity(number, one, several) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : several}`;
}

/** Percentages, with spaces at which no line breaks. */
export function percent(fraction) {
  return fraction > 0 && fraction < 0.001 ? "<\u00a00.1\u00a0%" : `${(100 * fraction).toFixed(1)}\u00a0%`;
}

export function wholePercent(fraction) {
  return `${Math.round(100 * fraction)}\u00a0%`;
}
