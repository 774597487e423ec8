"""Studies: how much transfer is worth at a hospital, by the number of its own cases."""
