"""Coming back after the worst: backups of the cluster's state, restoring one, and a new cluster forced from one manager's data."""
