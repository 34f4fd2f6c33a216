"""A cluster's worth of hosts on one machine: each host is a set of Linux namespaces, joined by a bridge."""
