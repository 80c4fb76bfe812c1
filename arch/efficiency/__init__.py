"""What a network costs: parameters and arithmetic, counted without running it; time, measured."""
