"""Devices, process groups, and suppression of MindSpore's log output."""
