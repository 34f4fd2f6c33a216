"""The rebalancer: marks running tasks that would be better placed on nodes that joined or came back."""
