"""pyswarm-dns: the small process that answers the containers' DNS, and the client that feeds it.

One per node. It outlives pyswarmd, so that names go on resolving while the daemon restarts or is upgraded. For its memory's
sake nothing here imports asyncio, httpx, fastapi or structlog, except `client`, which runs inside pyswarmd.
"""
