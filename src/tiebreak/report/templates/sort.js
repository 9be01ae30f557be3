"use strict";
// Sorts a table by a column: numbers as numbers, non-finite ones last in both directions, equal rows in place.
function valueOf(row, column) {
  const text = row.cells[column].dataset.sort;
  const number = Number(text);
  return { text, number, finite: text !== "" && Number.isFinite(number) };
}
const WORDS_OF_NO_NUMBER = new Set(["nan", "inf", "-inf", ""]);
function compare(left, right, sign) {
  const leftLast = WORDS_OF_NO_NUMBER.has(left.text);
  const rightLast = WORDS_OF_NO_NUMBER.has(right.text);
  if (leftLast || rightLast) return Number(leftLast) - Number(rightLast);
  if (left.finite && right.finite) return sign * (left.number - right.number);
  return sign * left.text.localeCompare(right.text, "en", { numeric: true });
}
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = Array.from(table.tHead.rows[0].cells);
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") === "ascending";
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = Array.from(body.rows, (row) => ({ row, value: valueOf(row, column) }));
      rows.sort((left, right) => compare(left.value, right.value, descending ? -1 : 1));
      body.append(...rows.map((item) => item.row));
    });
  });
}
