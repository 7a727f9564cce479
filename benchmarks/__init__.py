"""Benchmarks of the real code; each module is a command, none is a test."""
