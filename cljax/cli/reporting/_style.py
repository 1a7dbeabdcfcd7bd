"""Style and behaviour of the report page. No frameworks, nothing fetched."""

CSS = """
:root { color-scheme: light; --ink: #1c2733; --soft: #4d5b69; --line: #d5dce3; --wash: #f4f6f8; --mark: #0060a8; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; color: var(--ink);
  background: #fff; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 24px 60px; }
h1 { font-size: 22px; margin: 0 0 12px; } h2 { font-size: 18px; margin: 34px 0 8px; }
h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 6px 0; max-width: 95ch; } .soft, figcaption { color: var(--soft); font-size: 13.5px; }
.headline { border-left: 5px solid var(--mark); background: var(--wash); padding: 12px 16px; margin: 12px 0; }
.headline p { font-size: 17px; } .headline p + p { font-size: 15px; }
.notes { margin: 0; padding: 2px 12px 10px 32px; }
.notes li { overflow-wrap: anywhere; }
.filter { display: flex; flex-wrap: wrap; gap: 8px 12px; align-items: center; margin: 14px 0 6px; }
.filter input { font: inherit; padding: 4px 8px; border: 1px solid #6b7885; border-radius: 4px; width: 260px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 4px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
.sortable { width: 100%; }
.sortable th, .sortable td { padding: 5px 9px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
.sortable thead th { background: var(--wash); vertical-align: bottom; padding: 0; }
.sortable th:first-child, .sortable td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
.sortable thead th:first-child { background: var(--wash); }
.sortable tbody th { font-weight: normal; }
.sortable tbody tr:hover > * { background: #eef4fa; }
th button { all: unset; cursor: pointer; font-weight: 600; padding: 7px 9px; width: 100%; text-align: inherit;
  white-space: nowrap; }
th button:focus-visible, input:focus-visible, summary:focus-visible, .scroll:focus-visible, a:focus-visible {
  outline: 3px solid var(--mark); outline-offset: -2px; }
th button::after { content: "\\2195"; color: #8a96a3; padding-left: 4px; }
th[aria-sort=ascending] button::after { content: "\\25b2"; color: var(--mark); }
th[aria-sort=descending] button::after { content: "\\25bc"; color: var(--mark); }
.best { font-weight: 700; } .flag { color: #a02400; font-weight: 600; } .tag { color: var(--soft); font-size: 12.5px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 18px 26px; }
figure { margin: 0; min-width: 0; }
.chart { width: 100%; height: auto; display: block; font: 13px system-ui, "Liberation Sans", Arial, sans-serif; }
.chart text { fill: var(--ink); } .chart .label { fill: var(--soft); }
.chart .grid { stroke: #e4e9ee; } .chart .axis, .chart .tick { stroke: #6b7885; }
.chart .border { stroke: #aab4be; stroke-dasharray: 2 3; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0; margin: 6px 0;
  font-size: 13.5px; }
.swatch { vertical-align: middle; margin-right: 5px; }
details { border: 1px solid var(--line); border-radius: 4px; margin: 6px 0; }
summary { cursor: pointer; padding: 6px 12px; } details > div { padding: 4px 12px 12px; }
.matrices { display: flex; flex-wrap: wrap; gap: 12px 40px; } .matrix { overflow-x: auto; max-width: 100%; }
.matrix td { min-width: 40px; height: 27px; padding: 0 6px; text-align: center; font-size: 12.5px; }
.matrix th { font-weight: normal; color: var(--soft); padding: 2px 8px; font-size: 12.5px; text-align: right; }
.matrix thead th { text-align: center; } .matrix img { image-rendering: pixelated; border: 1px solid var(--line); }
.matrix tr.start td { border-bottom: 3px solid #fff; }
.said { width: 100%; margin: 8px 0 18px; } .said caption { text-align: left; padding: 4px 0; white-space: pre-wrap; }
.said th { text-align: left; font-weight: normal; color: var(--soft); padding: 3px 9px 3px 0; }
.said th:first-child { width: 8ch; }
.said td { padding: 3px 9px; white-space: pre-wrap; overflow-wrap: anywhere; }
.said th, .said td { border-top: 1px solid var(--line); vertical-align: top; }
[hidden] { display: none !important; }
dt { font-weight: 600; margin-top: 6px; } dd { margin: 0 0 0 18px; max-width: 95ch; }
@media print { .filter { display: none; } .scroll { overflow: visible; } }
"""

SCRIPT = """
'use strict';
(() => {
  const value = (row, column) => row.cells[column].dataset.value ?? '';
  const compare = (a, b, sign) => {
    if (a === '' || b === '') return (a === '') - (b === '');  // what is not there comes last, either way
    const x = Number(a), y = Number(b);
    const both = !Number.isNaN(x) && !Number.isNaN(y);
    return sign * (both ? x - y : a.localeCompare(b, 'en', {numeric: true}));
  };
  for (const table of document.querySelectorAll('table.sortable')) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
      const before = head.getAttribute('aria-sort');
      const first = head.dataset.first;
      const other = first === 'ascending' ? 'descending' : 'ascending';
      const order = before === first ? other : first;
      heads.forEach((h) => h.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', order);
      const sign = order === 'ascending' ? 1 : -1;
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column), sign));
      body.append(...rows);
    }));
  }
  const box = document.getElementById('filter');
  if (!box) return;
  const told = document.getElementById('filtered');
  const apply = () => {
    const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
    const fits = (name) => words.every((w) => name.toLowerCase().includes(w));
    for (const part of document.querySelectorAll('[data-name]')) {
      const out = !fits(part.dataset.name);
      if (part instanceof SVGElement) part.style.display = out ? 'none' : ''; else part.hidden = out;
    }
    const rows = [...document.querySelectorAll('table.sortable tbody tr')];
    const names = new Set(rows.map((r) => r.dataset.name));
    const left = new Set(rows.filter((r) => !r.hidden).map((r) => r.dataset.name));
    told.textContent = words.length ? `${left.size} of ${names.size} configurations shown` : '';
  };
  box.addEventListener('input', apply);
  box.addEventListener('keydown', (e) => { if (e.key === 'Escape') { box.value = ''; apply(); } });
  apply();
})();
"""
