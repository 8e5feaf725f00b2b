//! Style of the HTML page: light and dark, readable on a phone and on paper.

/// The style sheet.
pub(super) const CSS: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5b6570;--line:#d8dee4;--card:#f6f8fa;\
--a:#0b66c3;--b:#c2410c;--c:#15803d;--d:#7c3aed;--e:#b45309;--warn:#fff4e0;--warnfg:#7a4a00}\
@media(prefers-color-scheme:dark){:root{--bg:#0f1419;--fg:#e6e9ec;--dim:#9aa6b2;--line:#2d3640;--card:#171e26;\
--a:#62b0ff;--b:#ff9a5c;--c:#5fd38a;--d:#b79bff;--e:#f2c14e;--warn:#33270f;--warnfg:#ffd58a}}\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:70rem;padding:1.5rem 1rem 4rem;background:var(--bg);color:var(--fg);\
font:15px/1.5 system-ui,sans-serif}\
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.25rem;margin:2.2rem 0 .6rem;\
border-bottom:1px solid var(--line);padding-bottom:.2rem}h3{font-size:1.05rem;margin:1.8rem 0 .3rem}\
h4{font-size:.9rem;margin:0 0 .4rem;color:var(--dim);font-weight:600}\
p{margin:.3rem 0 .8rem}.dim{color:var(--dim)}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.87rem;\
width:100%}th,td{padding:.3rem .55rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}\
th{font-weight:600;color:var(--dim)}th:first-child,td:first-child{text-align:left}td.text,th.text{text-align:left}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem;margin:1rem 0;align-items:start}\
.plot{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem;min-width:0}\
svg{display:block;width:100%;height:auto}svg text{fill:var(--dim);font:11px system-ui,sans-serif}\
svg .name{fill:var(--fg)}svg .halo{paint-order:stroke;stroke:var(--card);stroke-width:4px}svg .grid{stroke:var(--line);stroke-dasharray:2 4}\
.f0{fill:var(--a)}.f1{fill:var(--b)}.f2{fill:var(--c)}.f3{fill:var(--d)}.f4{fill:var(--e)}\
.s0{stroke:var(--a)}.s1{stroke:var(--b)}.s2{stroke:var(--c)}.s0,.s1,.s2{fill:none;stroke-width:1.6}\
.dash{stroke-dasharray:5 4}\
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.5rem 0 0;padding:0;list-style:none;font-size:.82rem}\
.key i{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin-right:.35rem}\
.key .f0{background:var(--a)}.key .f1{background:var(--b)}.key .f2{background:var(--c)}.key .f3{background:var(--d)}\
.key .f4{background:var(--e)}\
.doubts{background:var(--warn);color:var(--warnfg);border-radius:.5rem;padding:.7rem 1rem;margin:1rem 0;\
font-size:.9rem}.doubts ul{margin:.2rem 0 0;padding-left:1.1rem}\
code{font:.92em ui-monospace,monospace;overflow-wrap:anywhere}\
@media print{body{max-width:none}.plot{break-inside:avoid}}";
