"""One module per verb; each wires the rooms together from a checked config."""
