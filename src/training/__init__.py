"""Training: plan, run, save and exactly resume a run."""
