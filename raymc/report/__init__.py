"""The report of a sweep: one self-contained page that says which setting won, and why.

Top layer: reads studies, bundles and datasets, knows no MLflow. `build.py` gathers, `trials.py`
and `classes.py` compute numbers, `embeddings.py` runs the model, `*_sections.py` put numbers,
figures and words together, `*_figures.py` draw, `drawing.py` and `page.py` make SVG and HTML.
"""

from raymc.report.build import build_report, save_report

__all__ = ["build_report", "save_report"]
