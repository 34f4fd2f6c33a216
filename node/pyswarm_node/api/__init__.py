"""The Engine API of a node: the application, its middleware, the system routes and swarm membership."""
