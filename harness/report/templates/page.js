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

/* A tile of a panel as a canvas. */
function tile(panel, [left, top], [width, height]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(panel, left, top, width, height, 0, 0, width, height);
  return canvas;
}

/* The frame in faint grey, coloured where two masks disagree, as harness/report/qualitative.py draws it. */
function disagreement(frame, truth, ours, base, colours) {
  const { width, height } = frame;
  const pixels = (canvas) => canvas.getContext("2d").getImageData(0, 0, width, height);
  const canvas = tile(frame, [0, 0], [width, height]);
  const [scene, right, mine, other] = [frame, truth, ours, base].map(pixels);
  const words = [right, mine, other].map((image) => new Uint32Array(image.data.buffer)); // a colour a pixel
  const empty = (255 << 24 | colours.void[2] << 16 | colours.void[1] << 8 | colours.void[0]) >>> 0;
  words[0].forEach((label, index) => {
    const [a, b] = [words[1][index], words[2][index]];
    const grey = (scene.data[4 * index] + scene.data[4 * index + 1] + scene.data[4 * index + 2]) / 3;
    let colour = Array(3).fill(255 * (1 - colours.scene) + colours.scene * grey);
    if (label === empty) colour = colours.void;
    else if (a !== b) colour = a === label ? colours.ours : b === label ? colours.base : colours.neither;
    scene.data.set(colour, 4 * index);
  });
  canvas.getContext("2d").putImageData(scene, 0, 0);
  return canvas;
}

/* Each panel's frame, ground truth, the two rows' masks and their disagreement, cut from the panels of the page. */
function pairs(ours, base, colours) {
  return Array.from(document.querySelectorAll("img[data-tiles]")).flatMap((panel) => {
    const { size, frame, truth, cells } = JSON.parse(panel.dataset.tiles);
    if (!(ours.cell in cells && base.cell in cells)) return [];
    const cut = [frame, truth, cells[ours.cell], cells[base.cell]].map((at) => tile(panel, at, size));
    const named = [...cut, disagreement(...cut, colours)];
    const figure = document.createElement("figure");
    const title = document.createElement("h3");
    title.textContent = panel.closest("figure").querySelector("h3").textContent.replace(/^[^:]*: /, ""); // its gain is of two rows
    const tiles = document.createElement("div");
    tiles.className = "tiles";
    ["frame", "ground truth", ours.label, base.label, "disagreement"].forEach((name, index) => {
      const box = document.createElement("div");
      const caption = document.createElement("div");
      caption.className = "small soft";
      caption.textContent = name;
      named[index].setAttribute("role", "img");
      named[index].setAttribute("aria-label", `${name}: ${title.textContent}`);
      box.append(named[index], caption);
      tiles.append(box);
    });
    figure.append(title, tiles);
    return [figure];
  });
}

const comparison = document.getElementById("comparison");
if (comparison) {
  const { rows, classes, units, colours } = JSON.parse(document.getElementById("rows").textContent);
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
  const frames = comparison.querySelector(".pairs");
  const draw = () => {
    if (!frames.parentElement.open) return;
    const shown = pairs(rows[ours.value], rows[base.value], colours);
    frames.replaceChildren(...(shown.length ? shown : ["No frame was kept of both rows."]));
  };
  if (frames) {
    frames.parentElement.addEventListener("toggle", draw);
    [ours, base].forEach((select) => select.addEventListener("change", draw));
  }
  [ours, base, by].forEach((select) => select.addEventListener("change", show));
  comparison.hidden = false;
  show();
}
