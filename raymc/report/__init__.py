"""Self-contained pages: the report of a sweep, the comparison of runs, the timeline of a video.

Start with `build.py`, which collects what a sweep's report needs, `comparison.py` and
`timeline.py`. `base.html` has what all pages share, `page.py` and `page.html` the template of
reports; `trials.py` and `classes.py` compute numbers, `*_figures.py` draw them, and
`*_sections.py` add the words.
"""
