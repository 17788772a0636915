"""What every part of the program uses: files written whole, processes, tables, suggestions, jitted functions."""
