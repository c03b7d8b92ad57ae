"""Studies: trainings that differ in some keys, their tables and plots, and comparisons of runs."""
