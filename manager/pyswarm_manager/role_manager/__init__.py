"""Which nodes are managers: keeps roles, etcd's members and the nodes' manager parts in step."""
