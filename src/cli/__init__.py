"""Command lines: errors of one line, flags, and signals."""
