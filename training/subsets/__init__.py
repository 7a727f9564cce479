"""Nested label subsets as list files."""
