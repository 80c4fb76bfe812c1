"""What `scripts/efficiency.py` measures: one file a study, each a function from Settings to pieces of work."""
