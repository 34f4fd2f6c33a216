"""The Engine API's routes that the agent answers: images, distribution and this node's containers."""
