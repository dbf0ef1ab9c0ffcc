"""The look of the page: one style sheet, light and dark, wide and narrow, and on paper."""

from typing import Final

CSS: Final = """
:root{--ink:#16202b;--soft:#5a6877;--page:#f5f7f9;--card:#fff;--line:#dde3e9;--a:#0f6f7c;--b:#b4541a;--tint:#e2f0f1;
--warn:#fff4dc;--warn-line:#e0a526;--bad:#fdebe7;--bad-line:#c9432c;--good:#1d7d4f;--hot:#fff;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa8b6;--page:#10161c;--card:#182029;--line:#2b3641;
--a:#54bccb;--b:#eb9a63;--tint:#1b343a;--warn:#33290f;--warn-line:#b98a1f;--bad:#3a1c17;--bad-line:#e0654f;--good:#58c08c;--hot:#0b1216}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}
header{margin-bottom:22px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0 0 12px}h3{font-size:.95rem;margin:20px 0 8px;color:var(--soft);font-weight:600}
p{margin:0 0 12px;max-width:74ch}a{color:var(--a)}
.lead{color:var(--soft);margin:0}.mark{color:var(--a);font-weight:700;letter-spacing:.06em;font-size:.8rem;
text-transform:uppercase;margin:0 0 8px}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:22px 24px;margin:0 0 18px}
.notice{border-radius:12px;padding:14px 18px;margin:0 0 14px;border:1px solid;border-left-width:6px}
.notice b{display:block;font-size:1.05rem}.notice p{margin:2px 0 0}
.notice.warn{background:var(--warn);border-color:var(--warn-line)}
.notice.bad{background:var(--bad);border-color:var(--bad-line)}
.tiles{display:grid;grid-template-columns:repeat(3,1fr);gap:14px;margin:0 0 18px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:15px 17px}
.tile .name{color:var(--soft);font-size:.84rem}.tile .value{font-size:1.8rem;font-weight:650;line-height:1.25;
font-variant-numeric:tabular-nums}.tile .value.text{font-size:1.15rem;padding:6px 0}
.tile .note{color:var(--soft);font-size:.82rem;line-height:1.4}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:18px 26px;align-items:start}
figure{margin:0}.square svg{max-width:370px}figcaption{color:var(--soft);font-size:.86rem;margin-top:6px}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:11.5px}
svg .name{fill:var(--ink)}svg .role{fill:var(--ink);font-size:14px;font-weight:650}svg .small{font-size:11.5px}
.grid{stroke:var(--line)}.axis{stroke:var(--soft)}
.curve{fill:none;stroke-width:2.4;stroke-linejoin:round}.curve.a,.key.a{stroke:var(--a);background:var(--a)}
.curve.b,.key.b{stroke:var(--b);background:var(--b)}
.curve.quiet{stroke:var(--soft);stroke-dasharray:4 4;stroke-width:1.4}.key.quiet{background:var(--soft)}
.dot.a{fill:var(--a)}.dot.b{fill:var(--b)}
.legend{display:block;margin-top:2px}.key{display:inline-block;width:18px;height:3px;vertical-align:middle;
margin:0 6px 0 14px;border-radius:2px}.key:first-child{margin-left:0}
.box{fill:var(--card);stroke:var(--line);stroke-width:1.5}.box.holds{fill:var(--tint);stroke:var(--a)}
.box.sees{stroke:var(--b)}.box.blind{stroke:var(--soft);stroke-dasharray:5 4}
.arrow{stroke:var(--soft);stroke-width:1.6}.arrow.sealed{stroke:var(--a);stroke-width:2}.tip{fill:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:8px 12px 8px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;font-size:.84rem}td{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
.confusion table{max-width:420px;table-layout:fixed}
.confusion th,.confusion td{border:0;padding:4px;text-align:center;vertical-align:middle;overflow-wrap:anywhere}
.confusion td:not(.corner){background:color-mix(in srgb,var(--a) var(--share),var(--tint));border:3px solid var(--card);
border-radius:10px;padding:16px 6px}.confusion td b{display:block;font-size:1.35rem}.confusion small{opacity:.85}
.confusion td.hot{color:var(--hot)}.confusion .corner{font-size:.76rem;color:var(--soft)}
.bar{display:grid;grid-template-columns:minmax(120px,230px) 1fr 84px;gap:12px;align-items:center;margin:7px 0;
font-size:.9rem}.track{background:var(--tint);border-radius:5px;height:14px;overflow:hidden}
.fill{display:block;height:100%;background:var(--a);border-radius:5px;min-width:2px}
.much{text-align:right;font-variant-numeric:tabular-nums}
.pairs{display:grid;grid-template-columns:minmax(150px,auto) 1fr;gap:7px 20px;margin:0;font-size:.93rem}
.pairs dt{color:var(--soft)}.pairs dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:8px 34px}
.two ul{margin:0;padding-left:1.15em}.two li{margin:0 0 8px}
.yes{color:var(--good);font-weight:650}.no{color:var(--bad-line);font-weight:700}
.absent{color:var(--soft);font-style:italic}
details{border-top:1px solid var(--line);padding:10px 0}details:first-of-type{border-top:0}
summary{cursor:pointer;font-weight:600;padding:2px 0}
pre{background:var(--page);border:1px solid var(--line);border-radius:10px;padding:14px;overflow:auto;font-size:.82rem;
line-height:1.5;max-height:480px}.scroll{overflow-x:auto}
footer{color:var(--soft);font-size:.85rem;margin-top:24px}
@media(max-width:640px){main{padding:18px 12px 40px}section{padding:17px 15px}h1{font-size:1.4rem}
.tiles{grid-template-columns:repeat(2,1fr);gap:10px}.tile{padding:12px 13px}.tile .value{font-size:1.35rem}
.bar{grid-template-columns:1fr auto;gap:2px 10px}.bar .track{grid-column:1/-1;grid-row:2}
.pairs{grid-template-columns:1fr;gap:0}.pairs dd{margin:0 0 9px}
table.stack thead{display:none}table.stack tr{display:block;padding:10px 0;border-bottom:1px solid var(--line)}
table.stack td{display:block;border:0;padding:2px 0}table.stack td::before{content:attr(data-head);display:block;
color:var(--soft);font-size:.78rem}table.stack td:first-child{font-weight:650}
table.stack td:first-child::before{display:none}
table.short tr{display:grid;grid-template-columns:repeat(3,auto);gap:2px 14px}
table.short td:first-child{grid-column:1/-1}table.short td:nth-child(2),table.short td:nth-child(3){white-space:nowrap}
table.short td:nth-child(2){grid-column:1/3}}
@media print{body{background:#fff}section,.tile{break-inside:avoid}details{display:none}}
"""
