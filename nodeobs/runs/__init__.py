"""Runs: which may start, which an alert asks for, and how one is driven to its finish."""
