"""Connect Four: its rules, an exact solver, positions of known value."""
