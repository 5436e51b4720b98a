"""Benchmarks: each is a program that prints one JSON line."""
