"""Entry points for `ray job submit`, configurations, and benchmarks; run from a checkout."""
