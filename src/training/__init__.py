"""Train a network: plan a run, run it, save it at any step, and resume it exactly."""
