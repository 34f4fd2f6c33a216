"""`pyswarm task`: why a task is where it is, and what became of it."""
