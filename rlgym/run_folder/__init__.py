"""Run folders: their contents, and finding and reading them."""
