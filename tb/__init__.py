"""Testbenches: each circuit of `hdl` against its model of `sim`, every cycle."""
