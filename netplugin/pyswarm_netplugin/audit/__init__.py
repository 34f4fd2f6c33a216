"""The audit: what the kernel has is compared, every few seconds, with what should be; what differs is repaired and told."""
