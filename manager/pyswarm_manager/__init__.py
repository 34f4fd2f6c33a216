"""The manager: the replicated store, the control loops, the CA, the dispatcher and the cluster API."""
