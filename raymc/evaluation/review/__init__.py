"""What would make a dataset better. Start with `review` in `review.py`, which joins the others.

`out_of_fold.py` trains models that have not seen the clips that they judge. From their scores,
`doubts.py` finds labels that look wrong and `learning_curves.py` says what more examples would
bring. `duplicates.py` finds clips that are there twice, `next_clips.py` clips to label next.
`files.py` writes tables; `thumbnails.py` makes the pictures of the page (`report/review.py`).
"""
