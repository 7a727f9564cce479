"""Measurements of the real thing; each module is a command, none is a test."""
