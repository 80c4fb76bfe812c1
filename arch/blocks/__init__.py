"""Blocks: how operators, convolutions and norms are wired. Convolution, norm and activation come in as fields."""
