/** A photo from the camera, in a dialog. */
import { showMessage } from "./elements.js";

const dialog = document.getElementById("camera");
const video = dialog.querySelector("video");
const trouble = dialog.querySelector("[role=alert]");
const shoot = document.getElementById("camera-shoot");

let stream = null;

/** Call `onFile` with each photo. */
export function watchCamera(onFile) {
  document.getElementById("camera-open").addEventListener("click", open);
  document.getElementById("camera-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", stop); // also closed by Escape
  video.addEventListener("loadeddata", () => {
    shoot.disabled = false;
    shoot.focus();
  });
  shoot.addEventListener("click", async () => {
    const file = await still();
    dialog.close();
    onFile(file);
  });
}

async function open() {
  showMessage(trouble, "");
  shoot.disabled = true;
  dialog.showModal();
  try {
    const found = await request();
    if (dialog.open) video.srcObject = stream = found;
    else found.getTracks().forEach((track) => track.stop());
  } catch (error) {
    showMessage(trouble, error.message);
  }
}

function request() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers allow camera access only over https or on this machine.");
  }
  return navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } }).catch((error) => {
    const refused = error.name === "NotAllowedError";
    throw new Error(refused ? "The browser was not allowed to use the camera." : "No usable camera was found.");
  });
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  video.srcObject = stream = null;
}

function still() {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const name = `camera ${new Date().toLocaleTimeString()}.jpg`;
  return new Promise((resolve) => {
    canvas.toBlob((blob) => resolve(new File([blob], name, { type: "image/jpeg" })), "image/jpeg", 0.92);
  });
}
