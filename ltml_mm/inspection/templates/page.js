'use strict';
(() => {
  const find = document.getElementById('filter');
  const found = document.getElementById('found');
  const table = document.getElementById('table');
  const rows = [...table.tBodies[0].rows];
  const details = [...document.querySelectorAll('#details > details')];

  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (element) => words.every((word) => element.dataset.find.includes(word));
    let count = 0;
    for (const row of rows) {
      row.hidden = !fits(row);
      count += !row.hidden;
    }
    for (const one of details) one.hidden = !fits(one);
    found.textContent = words.length ? `${count} of ${rows.length} classes` : '';
  };
  find.addEventListener('input', filter);
  find.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') { find.value = ''; filter(); }
    if (event.key === 'Enter') {
      // Else the summary that gets the focus would be pressed, too.
      event.preventDefault();
      const first = details.find((one) => !one.hidden);
      if (first) { first.open = true; first.querySelector('summary').focus(); }
    }
  });
  document.addEventListener('keydown', (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
    if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      find.focus();
    }
  });

  const setAll = (open) => { for (const one of details) if (!one.hidden) one.open = open; };
  document.getElementById('open').addEventListener('click', () => setAll(true));
  document.getElementById('close').addEventListener('click', () => setAll(false));

  const openTarget = () => {
    const one = location.hash && document.getElementById(location.hash.slice(1));
    if (one instanceof HTMLDetailsElement) {
      if (one.hidden) { find.value = ''; filter(); }
      one.open = true;
      one.scrollIntoView();
      one.querySelector('summary').focus({ preventScroll: true });
    }
  };
  addEventListener('hashchange', openTarget);
  // A link to where one is already changes nothing in the address.
  document.addEventListener('click', (event) => {
    const link = event.target.closest && event.target.closest('a[href^="#class-"]');
    if (link && link.getAttribute('href') === location.hash) openTarget();
  });
  openTarget();

  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace('−', '-'));
    return Number.isNaN(number) ? (text === '–' ? -Infinity : text.toLowerCase()) : number;
  };
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.querySelector('button').addEventListener('click', () => {
    const down = header.getAttribute('aria-sort') !== 'descending';
    for (const one of headers) one.setAttribute('aria-sort', 'none');
    header.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const text = !header.classList.contains('n');
    rows.sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      const order = text ? String(x).localeCompare(String(y)) : x - y;
      return (down === text ? 1 : -1) * order;
    });
    table.tBodies[0].append(...rows);
  }));

  const theme = document.getElementById('theme');
  theme.hidden = false;
  theme.addEventListener('click', () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = dark ? 'light' : 'dark';
  });
})();
