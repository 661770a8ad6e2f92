"""Action heads: from a readout's tokens to actions and losses; one kind per file."""
