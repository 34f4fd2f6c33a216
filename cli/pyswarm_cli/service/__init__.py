"""`pyswarm service …`: what the cluster runs."""
