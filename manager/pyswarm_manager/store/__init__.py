"""The replicated store: etcd holds it, a mirror in memory serves it, and one fenced writer changes it."""
