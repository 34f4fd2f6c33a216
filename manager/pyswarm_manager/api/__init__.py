"""The Engine API's routes that the manager answers: swarm, nodes, services, tasks, networks and their logs."""
