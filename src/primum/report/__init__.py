"""Report: reads the folder of a run and writes one self-contained HTML file; changes nothing else.

In: `runs/<id>/` with study.toml, metrics.jsonl, ledger.jsonl, card.json, summary.json, and perhaps predictions.jsonl and
diagnoses.jsonl. Out: `report.html`, which fetches nothing and needs no script. Read `page.py` first (what stands on the
page), then `run.py` (what is read), `sections.py` and `card.py` (the parts), `plots.py` and `flow.py` (drawn as SVG).
"""

from primum.report.page import page, write_report
from primum.report.run import Run, read_run

__all__ = ["Run", "page", "read_run", "write_report"]
