"""Multiple runs: all combinations of values (-m), or a hyper-parameter search (sweep)."""
