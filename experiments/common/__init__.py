"""Shared by all experiments: options, training, grids, tables, figures."""
