// Sort and filter the table of the ledger; without this script the table stands as it is.
(function () {
  "use strict";
  function start() {
    const table = document.getElementById("ledger"), controls = document.getElementById("ledger-controls");
    if (!table || !controls) return;
    const body = table.tBodies[0], rows = Array.from(body.rows);
    const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

    function control(name, element) {
      const label = document.createElement("label");
      label.append(name, element);
      controls.append(label);
      element.addEventListener("input", show);
      return element;
    }
    function choice(id, name, values) {
      const select = document.createElement("select");
      select.id = id;
      select.append(new Option("all", ""));
      Array.from(new Set(values)).sort().forEach((value) => select.append(new Option(value, value)));
      return control(name, select);
    }
    const box = document.createElement("input");
    box.type = "search";
    box.id = "search";
    control("words", box);
    const verdict = choice("verdict", "verdict", rows.flatMap((row) => row.dataset.verdict.split("|")));
    const chapter = choice("chapter", "chapter", rows.map((row) => row.dataset.chapter));
    const count = document.createElement("output");
    count.setAttribute("aria-live", "polite");
    controls.append(count);

    function show() {
      const wanted = box.value.trim().toLowerCase();
      rows.forEach((row) => {
        row.hidden = !(text.get(row).includes(wanted)
          && (!verdict.value || row.dataset.verdict.split("|").includes(verdict.value))
          && (!chapter.value || row.dataset.chapter === chapter.value));
      });
      count.textContent = rows.filter((row) => !row.hidden).length + " of " + rows.length + " claims";
    }

    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        Array.from(table.tHead.rows[0].cells).forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].textContent.trim();
        const sorted = rows.slice().sort((a, b) => key(a).localeCompare(key(b), "en", { numeric: true }));
        (down ? sorted.reverse() : sorted).forEach((row) => body.append(row));
      });
    });

    function reach() {
      const row = document.getElementById(location.hash.slice(1));
      if (!rows.includes(row)) return;
      if (row.hidden) {
        box.value = verdict.value = chapter.value = "";
        show();
      }
      row.scrollIntoView();
    }
    show();
    reach();
    addEventListener("hashchange", reach);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
