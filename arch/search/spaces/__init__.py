"""Spaces to search, one a file."""
