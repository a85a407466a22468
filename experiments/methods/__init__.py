"""What the experiments compare, one file per command."""
