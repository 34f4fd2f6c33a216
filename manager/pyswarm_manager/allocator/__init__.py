"""The allocator: VXLAN ids and subnets for networks, virtual IPs for services, addresses for tasks."""
