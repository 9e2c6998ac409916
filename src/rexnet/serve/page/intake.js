/** Files that are dropped, pasted or chosen. */

const example = document.getElementById("example");
const choose = document.getElementById("choose");
const input = document.getElementById("file");
const zone = document.getElementById("drop");

/** Call `onFiles` with images, and `onError` with a message for anything else. */
export function watchIntake(onFiles, onError) {
  const take = async (files) => {
    const errors = [];
    const images = [];
    for (const file of files) {
      const reason = await whyNot(file);
      if (reason) errors.push(reason);
      else images.push(file);
    }
    onError(errors.join(" "));
    if (images.length) onFiles(images);
  };

  example.addEventListener("click", async () => {
    const response = await fetch(example.querySelector("img").src);
    take([new File([await response.blob()], "example.jpg", { type: "image/jpeg" })]);
  });
  choose.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
  watchDrops((transfer) => {
    const files = [...transfer.files];
    if (files.length) take(files);
    else onError("That is not a file; save the image first, or copy and paste it.");
  });
}

/** Accept drops anywhere: an image that misses the zone would otherwise replace the page. */
function watchDrops(onDrop) {
  const brings = (event) => event.dataTransfer?.types.some((type) => type === "Files" || type === "text/uri-list");
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    zone.classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", (event) => brings(event) && mark(1));
  document.addEventListener("dragleave", (event) => brings(event) && mark(-1));
  document.addEventListener("dragover", (event) => brings(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    mark(-depth);
    onDrop(event.dataTransfer);
  });
}

async function whyNot(file) {
  if (file.type && !file.type.startsWith("image/")) {
    return `${file.name} is not an image but ${file.type}; allowed: JPEG, PNG, WebP and GIF files.`;
  }
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return `${file.name} cannot be read; allowed: files, not folders.`;
  }
  return null;
}
