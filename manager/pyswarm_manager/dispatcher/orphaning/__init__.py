"""Orphaning: gives up the tasks of nodes that have been away for too long."""
