"""From finished runs to numbers that are compared."""
