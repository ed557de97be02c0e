"""Golden model: integer numerics and cycle-exact models. Never imports Amaranth."""
