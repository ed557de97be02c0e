"""Energy of a block from its standard-cell netlist and the traffic that it sees: docs/energy.md."""
