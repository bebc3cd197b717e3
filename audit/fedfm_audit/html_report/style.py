"""The one style sheet of the report: light, dark and A4 paper; no font, image or script.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --soft: #5a5a5a; --rule: #d0d0d0;
  --good: #00674b; --bad: #b3261e; --open: #6b5900; --panel: #f5f5f3; --accepted: #0072b2;
  --removed: #d55e00; --limit: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #161616; --ink: #ececec; --soft: #adadad;
  --rule: #454545; --good: #4cc79b; --bad: #ff8a80; --open: #e3c542; --panel: #222;
  --accepted: #56b4e9; --removed: #e69f00; --limit: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Liberation Sans", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--rule);
  font-size: 1.2rem; }
p, ul, dl, table, figure { margin: .6rem 0; }
.soft, figcaption, caption { color: var(--soft); font-size: .87rem; }
.verdict { padding: 1rem 1.2rem; border: 2px solid; border-radius: 6px; background: var(--panel); }
.verdict.verified { border-color: var(--good); } .verdict.failed { border-color: var(--bad); }
.verdict.verified h1, .verified { color: var(--good); }
.verdict.failed h1, .failed { color: var(--bad); }
.open { color: var(--open); }
.verified, .failed, .open { font-weight: 600; }
.verdict p, .verdict li { color: var(--ink); font-weight: 400; }
table { width: 100%; border-collapse: collapse; font-size: .87rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid var(--rule); overflow-wrap: normal; }
tbody th { font-weight: 600; }
#roster tbody th, #privacy tbody th, #log tbody th, #tools tbody th, #adapters tbody th {
  min-width: 8.5rem; }
span.verified, span.failed, span.open, .word { white-space: nowrap; }
td, th, dd, li, code { unicode-bidi: isolate; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font-family: "DejaVu Sans Mono", ui-monospace, monospace; font-size: .8rem;
  overflow-wrap: anywhere; }
pre { padding: .7rem; background: var(--panel); white-space: pre-wrap; }
dl { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr; gap: .25rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
.plot { display: block; width: 100%; height: auto; }
.plot text { fill: var(--ink); font-size: 11px; }
.grid { stroke: var(--rule); stroke-width: .6; } .axis { stroke: var(--ink); }
.limit { stroke: var(--limit); stroke-width: 1.4; stroke-dasharray: 6 4; }
.accepted { fill: var(--accepted); }
.removed { fill: var(--removed); stroke: var(--ink); stroke-width: .7; }
.missing { fill: none; stroke: var(--soft); stroke-width: .8; stroke-dasharray: 2 2; }
.series { stroke-width: 2.2; stroke: var(--accepted); }
.s1 { stroke: #d55e00; } .s2 { stroke: #009e73; } .s3 { stroke: #cc79a7; }
.s4 { stroke: #e69f00; } .s5 { stroke: #56b4e9; } .d1 { stroke-dasharray: 8 3; }
@page { size: A4; margin: 16mm 14mm; }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb;
    --good: #00553d; --bad: #9c1c15; --open: #574800; --panel: #fff; --accepted: #0072b2;
    --removed: #d55e00; --limit: #9c1c15; }
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; }
  .wide { overflow: visible; }
  table { font-size: 8pt; } thead { display: table-header-group; }
  tr, figure, .verdict, dt, dd, li, caption, .soft { break-inside: avoid; }
  h2, caption, thead, .soft { break-after: avoid; }
  tbody tr:nth-child(-n+3):not(:last-child) { break-after: avoid; }
  p { orphans: 3; widows: 3; }
  pre { border: 1px solid var(--rule); }
}
"""
