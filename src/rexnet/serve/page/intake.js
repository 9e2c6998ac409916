/** Files that the reader drops, pastes or chooses. */

const choose = document.getElementById("choose");
const input = document.getElementById("file");
const zone = document.getElementById("drop");

/** Calls `onFiles` with pictures, and `onRefusal` with a sentence for anything else. */
export function watchIntake(onFiles, onRefusal) {
  const take = async (files) => {
    const refused = [];
    const good = [];
    for (const file of files) {
      const reason = await whyNot(file);
      if (reason) refused.push(reason);
      else good.push(file);
    }
    onRefusal(refused.join(" "));
    if (good.length) onFiles(good);
  };

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
    else onRefusal("That is no file; save the picture first, or copy and paste it.");
  });
}

/** Anywhere on the page: a picture that misses the zone would otherwise replace the page. */
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
    return `${file.name} is not a picture but ${file.type}; JPEG, PNG, WebP and GIF files are taken.`;
  }
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return `${file.name} cannot be read; folders are not taken.`;
  }
  return null;
}
