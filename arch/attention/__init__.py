"""Attention: over channels, over positions, over a codebook, and of positions to one another."""
