"""All routes of the agent, in one list for the application, which sets `app.state.agent` to this node's AgentServices."""

from fastapi import APIRouter

from pyswarm_agent.api import (
    archives,
    attaching,
    containers,
    execs,
    image_transfer,
    images,
    logs,
    plugins,
    port_forwarding,
    processes,
    statistics,
    volumes,
)

ROUTERS: tuple[APIRouter, ...] = (
    archives.router,
    attaching.router,
    containers.router,
    execs.router,
    image_transfer.router,
    images.router,
    logs.router,
    plugins.router,
    port_forwarding.router,
    processes.router,
    statistics.router,
    volumes.router,
)
