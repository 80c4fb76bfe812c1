"""Architecture search: a space says what there is, a strategy asks and is told, an evaluator gives the reward."""
