"""Pure measurements on tables: what changed, how much, does it hurt."""
