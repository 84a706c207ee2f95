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
  // Tables of the text become cards on a phone, as those of a run do.
  document.querySelectorAll(".bd-article table.table").forEach((table) => {
    if (table.closest(".scrolls, .cell_output")) return;
    table.parentElement.classList.add("scrolls");
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.innerText.trim());
    table.querySelectorAll("tbody tr").forEach((row) => {
      [...row.cells].forEach((cell, place) => heads[place] && cell.setAttribute("data-label", heads[place]));
    });
  });
  document.querySelectorAll(".scrolls table").forEach((table) => {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    table.querySelectorAll("tbody tr").forEach((row) => {
      const names = [...row.cells].filter((cell) => cell.tagName === "TH"); // one alone is the card's title
      if (names.length > 1) names.forEach((cell) => cell.setAttribute("data-label", heads[cell.cellIndex]));
    });
  });
  document.querySelectorAll(".scrolls td[data-label]").forEach((cell) => { // beside its label, a cell is one box
    if (cell.childNodes.length < 2) return;
    const whole = document.createElement("div");
    whole.append(...cell.childNodes);
    cell.append(whole);
  });
  document.querySelectorAll("table.dataframe").forEach((table) => table.setAttribute("tabindex", "0")); // it scrolls
  document.querySelectorAll(".citation-list[role=list]").forEach((list) => list.removeAttribute("role")); // has no items
  // What is read aloud begins with what is written on a button.
  document.querySelectorAll("button[aria-label]").forEach((button) => {
    if (button.innerText.trim()) button.removeAttribute("aria-label");
  });
});
