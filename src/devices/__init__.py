"""Devices and processes: where MindSpore runs, which processes train together, and what it may print."""
