"""The style sheet of the data card and of the result page: one column, light and dark, phone and desktop."""

from typing import Final

STYLE: Final = """
:root{--paper:#faf9f6;--card:#fff;--ink:#22252a;--soft:#676c75;--line:#e3e0d8;--pretrained:#1f7a99;
--scratch:#bd6a24;--semi:#7a4fa3;
--tone-1:#4b7f3a;--tone-2:#b04a6c;--tone-3:#8a7a1f;
--tone-4:#3f5fb0;--tone-5:#6b6f76;--majority:#8d929b;--good:#2c7a45;--bad:#b23a3a}
@media (prefers-color-scheme:dark){:root{--paper:#15171a;--card:#1d2024;--ink:#e7e5e0;--soft:#9ca1aa;
--line:#32363c;--pretrained:#62bcd8;--scratch:#e59c5f;--semi:#b795dd;--tone-1:#8fc47c;--tone-2:#e58aa8;
--tone-3:#d0c063;--tone-4:#8aa4ee;--tone-5:#a5a9b0;--majority:#7d838d;--good:#79c491;--bad:#ec8f8f}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:66rem;padding:0 1.1rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;
font-variant-numeric:tabular-nums}
header{padding:2.6rem 0 .6rem;max-width:50rem}
h1,h2{font-family:"Iowan Old Style","Palatino Linotype",Palatino,Georgia,"Times New Roman",serif;
font-weight:600;text-wrap:balance}
h1{font-size:clamp(1.5rem,1.15rem + 1.9vw,2.35rem);line-height:1.22;margin:.3rem 0 .9rem;
letter-spacing:-.01em}
h2{font-size:1.45rem;line-height:1.25;margin:0 0 .8rem}
h3{font-size:1rem;margin:2rem 0 .3rem}
p{max-width:44rem;margin:.5rem 0 1rem}
.over{font-size:.85rem;color:var(--soft);margin:0}
.lede{font-size:1.05rem;color:var(--soft)}
.note,.soft{color:var(--soft);font-weight:400}
.note{font-size:.88rem}
section{border-top:1px solid var(--line);padding:1.8rem 0 1.4rem}
figure{margin:0}
figcaption{font-size:.9rem;font-weight:600}
ul,ol,dl{margin:0;padding:0;list-style:none}
code,pre{font:.85em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.8rem 1rem;overflow-x:auto}
.scroll{overflow-x:auto}
.commands{white-space:pre-wrap;overflow-wrap:anywhere}
td{white-space:nowrap}
table{border-collapse:collapse;font-size:.93rem;line-height:1.3;margin:.4rem 0 .8rem}
th,td{padding:.42rem .9rem .42rem 0;text-align:right;font-weight:400;vertical-align:bottom}
th:first-child{text-align:left}
th:last-child,td:last-child{padding-right:0}
thead th{color:var(--soft);font-size:.82rem;border-bottom:1px solid var(--line)}
tbody tr+tr>*{border-top:1px solid var(--line)}
table.scores{width:100%;font-size:1rem}
.scores tbody+tbody th[scope=rowgroup]{padding-top:1.1rem;font-weight:600}
.scores th[scope=row]{white-space:nowrap}
.best{font-weight:700}
.gaps th[scope=rowgroup]{padding-top:.9rem;font-weight:600}
:is(.scores,.gaps) tbody :is(td,th){vertical-align:top}
.wide{font-size:.85rem}
.wide th[scope=row]{position:sticky;left:0;background:var(--paper);min-width:7rem;
max-width:11rem;overflow-wrap:break-word}
.wide thead tr+tr th{text-align:right}
.wide th[scope=colgroup]{text-align:center}
.dot{display:inline-block;width:.65rem;height:.65rem;border-radius:50%;margin-right:.45rem;background:var(--majority)}
.dot.pretrained{background:var(--pretrained)}
.semi:is(.dot,.bar){background:var(--semi)}
.tone-1:is(.dot,.bar){background:var(--tone-1)}
.tone-2:is(.dot,.bar){background:var(--tone-2)}
.tone-3:is(.dot,.bar){background:var(--tone-3)}
.tone-4:is(.dot,.bar){background:var(--tone-4)}
.tone-5:is(.dot,.bar){background:var(--tone-5)}
.between{display:block;color:var(--soft);font-size:.72em;font-weight:400}
.dot.scratch{background:var(--scratch);border-radius:1px}
.dot.prevalence{width:2px;height:.95rem;border-radius:0;background:var(--ink);vertical-align:-.15rem}
.legend .dot.majority{width:1.2rem;height:0;border-radius:0;background:none;
border-top:2px dashed var(--majority);
vertical-align:.2rem}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.2rem;font-size:.88rem;margin:.2rem 0 .8rem}
.classes i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.4rem;
vertical-align:-.08rem;outline:1px solid var(--line)}
.classes{gap:.2rem 1rem;margin-top:.8rem}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:1.4rem 2.2rem}
.chart{display:block;width:100%;height:auto;overflow:visible}
.chart text{font-size:12.5px;fill:var(--soft)}
.chart .value{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--paper);stroke-width:4px}
.chart line{stroke:var(--line)}
.chart .level{stroke:var(--majority);stroke-width:1.5;stroke-dasharray:5 4}
.chart polyline{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.chart polyline.pretrained,.chart .curve{stroke:var(--pretrained)}
.chart polyline.scratch{stroke:var(--scratch)}
.chart circle{fill:var(--pretrained)}
.chart .semi{stroke:var(--semi)}
.chart .tone-1{stroke:var(--tone-1)}
.chart .tone-2{stroke:var(--tone-2)}
.chart .tone-3{stroke:var(--tone-3)}
.chart .tone-4{stroke:var(--tone-4)}
.chart .tone-5{stroke:var(--tone-5)}
.chart .error{stroke-width:1.6;opacity:.8}
.chart .error.pretrained{stroke:var(--pretrained)}
.chart .error.scratch{stroke:var(--scratch)}
.chart circle.semi{fill:var(--semi)}
.chart circle.tone-1{fill:var(--tone-1)}
.chart circle.tone-2{fill:var(--tone-2)}
.chart circle.tone-3{fill:var(--tone-3)}
.chart circle.tone-4{fill:var(--tone-4)}
.chart circle.tone-5{fill:var(--tone-5)}
.chart polyline.raw{stroke:var(--majority);stroke-width:1;opacity:.55}
.chart rect{fill:var(--scratch)}
.chart .area,.chart .more{fill:var(--pretrained)}
.chart .less{fill:var(--scratch)}
.chart.matrix{width:auto;height:auto;max-width:none}
.bars{columns:2 24rem;column-gap:2.6rem;font-size:.9rem;margin-bottom:1.2rem}
.bars li{display:grid;grid-template-columns:8.6rem 1fr 3.2rem;gap:.7rem;align-items:center;
break-inside:avoid;padding:.2rem 0;line-height:1.15}
.bars .name{overflow-wrap:anywhere}
.track{position:relative;display:grid;gap:2px;padding:3px 0;border-left:1px solid var(--line)}
.bar{display:block;height:6px;border-radius:0 2px 2px 0}
.bar.pretrained{background:var(--pretrained)}
.bar.scratch{background:var(--scratch);opacity:.8}
.mark{position:absolute;top:0;bottom:0;width:2px;background:var(--ink)}
.gain{text-align:right;font-weight:600}
.up{color:var(--good)}
.down{color:var(--bad)}
img{display:block;max-width:100%;height:auto;border-radius:4px}
.faces{display:grid;grid-template-columns:repeat(auto-fill,minmax(10rem,1fr));gap:.7rem}
.faces img{width:100%}
.heats{display:grid;grid-template-columns:repeat(auto-fill,minmax(5.6rem,1fr));gap:1rem .8rem}
.heats figcaption,.mistakes figcaption{font-size:.82rem;line-height:1.3;margin-top:.3rem;
overflow-wrap:anywhere}
.heat{width:100%;image-rendering:pixelated;background:var(--card);outline:1px solid var(--line);
border-radius:2px}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:1.2rem 1.6rem;
margin-top:.6rem}
.curves figcaption{display:flex;justify-content:space-between;gap:.4rem}
.mistakes{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.4rem,1fr));gap:1rem .8rem;
margin-top:.6rem}
.mistakes img{width:100%}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:1rem}
.facts dt,.origin dt{color:var(--soft);font-size:.82rem}
.facts dd{margin:0;font-size:1.3rem}
.origin dd{margin:0 0 .7rem;font-size:.9rem;overflow-wrap:anywhere}
details{margin:.8rem 0}
summary{cursor:pointer;font-weight:600;font-size:.93rem}
@media (max-width:32rem){
table.scores{font-size:.9rem}
.scores th[scope=row]{position:sticky;left:0;background:var(--paper);white-space:normal;min-width:6.5rem}
th,td{padding-right:.55rem}
.scores thead th{font-size:.74rem}
.bars li{grid-template-columns:7.2rem 1fr 2.9rem;gap:.5rem}
.curves{grid-template-columns:1fr 1fr;gap:1rem}
.curves text{font-size:19px}
.curves figcaption{font-size:.8rem}
}
""".strip()
"""The page's style sheet."""
