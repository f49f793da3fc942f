"""Scores and labels with everything in them that a metric must cope with."""

import numpy as np

Table = tuple[np.ndarray, np.ndarray, np.ndarray]


def random_table(seed: int, levels: int, rows: int = 60, classes: int = 7) -> Table:
    """Scores in 2 × `levels` steps and what is special, once only what is observed counts.

    Class 0 has no positive, class 1 no negative, class 2 and row 2 nothing at all; row 0 has no
    label, row 1 only labels.
    """
    generator = np.random.default_rng(seed)
    scores = generator.integers(-levels, levels, (rows, classes)) / levels
    noise = generator.uniform(-1.0, 1.0, (rows, classes))
    labels = 0.7 * scores + noise > 0.4
    labels[:, 1], labels[0], labels[1] = True, False, True
    observed = generator.random((rows, classes)) < 0.75
    observed[:, 2], observed[2], observed[0, 1] = False, False, False
    labels[:, 0] = ~observed[:, 0]
    return scores, labels, observed
