'use strict';

// A click on a header sorts the rows by its column: names from A to Z, numbers
// from the largest. Another click turns that round. What has no value stays at
// the end.
function sort(header) {
  const column = header.cellIndex;
  const order = {
    ascending: 'descending',
    descending: 'ascending',
    null: column ? 'descending' : 'ascending',
  }[header.getAttribute('aria-sort')];
  for (const other of header.parentElement.children) {
    other.removeAttribute('aria-sort');
  }
  header.setAttribute('aria-sort', order);

  const sign = order === 'ascending' ? 1 : -1;
  const number = (row) => Number(row.cells[column].dataset.value ?? NaN);
  const name = (row) => row.cells[0].textContent;
  const compare = (a, b) => {
    if (!column) return sign * name(a).localeCompare(name(b), 'en');
    const [x, y] = [number(a), number(b)];
    return isNaN(x) - isNaN(y) || sign * (x - y) || 0;
  };
  const body = header.closest('table').tBodies[0];
  body.append(...[...body.rows].sort(compare));
}

for (const button of document.querySelectorAll('thead button')) {
  button.addEventListener('click', () => sort(button.parentElement));
}
