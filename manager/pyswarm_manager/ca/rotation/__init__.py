"""A change of the root CA while the cluster works (`swarm ca --rotate`)."""
