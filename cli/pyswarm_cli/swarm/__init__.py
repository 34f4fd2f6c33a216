"""`pyswarm swarm …`: begin a cluster, join it, leave it."""
