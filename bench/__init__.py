"""Measurements: one file per question, one line of JSON at the end of each (`scripts/bench NAME`)."""
