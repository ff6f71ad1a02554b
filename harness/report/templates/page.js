"use strict";

/* A number at the start of a cell, with the signs that the tables use; NaN where there is none. */
function number(text) {
  return parseFloat(text.replace("\u2212", "-").replace("+", ""));
}

function order(table, column, descending) {
  const rows = Array.from(table.tBodies[0].rows);
  const texts = new Map(rows.map((row) => [row, row.cells[column].textContent.trim()]));
  const numeric = rows.some((row) => !Number.isNaN(number(texts.get(row))));
  rows.sort((one, other) => {
    const [a, b] = [texts.get(one), texts.get(other)];
    if (!numeric) return descending ? b.localeCompare(a) : a.localeCompare(b);
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // cells without number last
    return descending ? y - x : x - y;
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.title = "Sort by this column";
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      order(table, column, descending);
    });
  });
}

for (const line of document.querySelectorAll(".copy")) {
  line.hidden = false;
  const status = line.querySelector("[role=status]");
  for (const button of line.querySelectorAll("button")) {
    button.addEventListener("click", async () => {
      const source = line.querySelector(`textarea[name=${button.value}]`);
      try {
        await navigator.clipboard.writeText(source.value);
        status.textContent = `copied as ${button.textContent}`;
      } catch {
        source.hidden = false; // no clipboard here: the text itself, selected
        source.select();
        status.textContent = "press Ctrl+C";
      }
    });
  }
}

const comparison = document.getElementById("comparison");
if (comparison) {
  const { rows, classes, units } = JSON.parse(document.getElementById("rows").textContent);
  const [ours, base, by] = comparison.querySelectorAll("select");
  const body = comparison.querySelector("tbody");
  rows.forEach((row, index) => [ours, base].forEach((select) => select.add(new Option(row.label, index))));
  ours.selectedIndex = rows.length - 1;
  const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2);
  const show = () => {
    const names = by.value === "classes" ? classes : units;
    const [one, other] = [rows[ours.value][by.value], rows[base.value][by.value]];
    body.replaceChildren(
      ...names
        .map((name, index) => [name, one[index], other[index]])
        .filter(([, a, b]) => a !== null && b !== null)
        .map(([name, a, b]) => [name, a, b, a - b])
        .sort((a, b) => b[3] - a[3])
        .map(([name, a, b, gain]) => {
          const line = document.createElement("tr");
          [name, a.toFixed(2), b.toFixed(2), signed(gain)].forEach((text, column) => {
            const cell = line.insertCell();
            cell.textContent = text;
            cell.className = column ? "r" : "";
          });
          return line;
        }),
    );
  };
  [ours, base, by].forEach((select) => select.addEventListener("change", show));
  comparison.hidden = false;
  show();
}
