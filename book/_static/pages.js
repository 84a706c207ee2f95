// From a file, a page may not fetch others: search then shows titles without excerpts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

function openTarget() { // a link to something folded opens it
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target && target.closest("details");
  if (folded) folded.open = true;
}

window.addEventListener("hashchange", openTarget);
document.addEventListener("DOMContentLoaded", () => {
  openTarget();
  // What is read aloud begins with what is written on a button.
  document.querySelectorAll("button[aria-label]").forEach((button) => {
    if (button.innerText.trim()) button.removeAttribute("aria-label");
  });
});
