"""Ways of reading that the ingest benchmark compares, most of them importable without raymc."""
