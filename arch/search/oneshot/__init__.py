"""Searches within one network that holds all candidates."""
