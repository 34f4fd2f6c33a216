"""`pyswarm debug …`: the truth below the surface, for whoever looks for a fault."""
