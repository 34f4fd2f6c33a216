"""pyswarmd: puts agent, manager and API together."""
