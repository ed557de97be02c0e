"""Amaranth circuits: everything that becomes Verilog."""
