"""Self-contained pages: the report of a sweep, and the comparison of runs.

Start with `build.py`, which collects what a sweep's report needs, and `comparison.py`.
`page.py` and `page.html` are the one page template; `trials.py` and `classes.py` compute numbers,
`*_figures.py` draw them, and `*_sections.py` add the words.
"""

from raymc.report.build import build_report, save_report

__all__ = ["build_report", "save_report"]
