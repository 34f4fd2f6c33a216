"""`pyswarm image …`: the images of this node."""
