"""Ways of tuning that the tune benchmark compares, and what else it asks of a sweep."""
