"""Weights of other libraries' networks, read and written; which of their tensors is which of our variables."""
