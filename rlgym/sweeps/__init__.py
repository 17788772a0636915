"""Many runs: every combination of values (-m), or a search for better ones (sweep)."""
