"""What scores are worth: exact ranking metrics, thresholds, calibration and intervals.

NumPy and SciPy only; nothing here knows the model. Start with `metrics.py`: `evaluate_scores`
computes all metrics, and its `Ranking` is what thresholds and the bootstrap read too.
"""
