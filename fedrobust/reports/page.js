// The address says how a table is sorted: #runs=3 by the third column of the table "runs", #runs=-3 the other way round.
function sort(table, column, down) {
  const value = row => row.cells[column].dataset.value;
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last, either way
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return down ? -order : order;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", down ? "descending" : "ascending");
}

function followAddress() {
  const [name, column] = decodeURIComponent(location.hash.slice(1)).split("=");
  const target = document.getElementById(name);
  if (target instanceof HTMLDetailsElement) target.open = true;
  if (target instanceof HTMLTableElement && target.tHead.rows[0].cells[Math.abs(column) - 1])
    sort(target, Math.abs(column) - 1, column < 0);
}

for (const table of document.querySelectorAll("table.sortable"))
  for (const head of table.tHead.rows[0].cells)
    head.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      location.replace(`#${table.id}=${down ? "-" : ""}${head.cellIndex + 1}`);
    });
addEventListener("hashchange", followAddress);
followAddress();
