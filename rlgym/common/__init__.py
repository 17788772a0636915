"""Utilities for the whole program: atomic file writes, process pool, tables, suggestions, jitted functions."""
