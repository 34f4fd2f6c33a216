"""`pyswarm volume …`: the volumes of this node."""
