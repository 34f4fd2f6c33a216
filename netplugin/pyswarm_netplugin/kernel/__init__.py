"""The data plane's way to the kernel: namespaces, packed netlink messages, reading back what is there, carrying operations out."""
