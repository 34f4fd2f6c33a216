"""The routing mesh: every node publishes the services' ports, and every task sees its clients' real addresses.

    client ──▶ host: DNAT of the published port ──▶ mesh sandbox: DNAT to a task's address on the ingress network
                                                        │  (overlay; the source is the client's all the way)
    client ◀── host ◀── mesh sandbox of that node ◀──── task's sandbox: answers go back to the gateway they came by

`views.py` says what of it an ingress view asks for, `gateway.py` keeps this node's mesh sandbox, `plan.py` plans. The rules are in
`kernel/mesh_ports.py` (mesh sandbox) and `kernel/returns.py` (tasks' sandboxes).
"""
