"""`pyswarm node …`: the machines of the cluster."""
