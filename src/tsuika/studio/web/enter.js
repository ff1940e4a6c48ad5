// The door: sends the key that was typed.
// @ts-check

const form = /** @type {HTMLFormElement} */ (document.getElementById("door"));
const field = /** @type {HTMLInputElement} */ (document.getElementById("key"));
const wrong = /** @type {HTMLElement} */ (document.getElementById("wrong"));

form.addEventListener("submit", async event => {
  event.preventDefault();
  const answer = await fetch("/enter", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ key: field.value }),
  });
  if (answer.ok) location.replace("/");
  wrong.hidden = answer.ok;
});
