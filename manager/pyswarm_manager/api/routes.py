"""All routes of the manager, in one list for the application.

The application that includes them sets `app.state.require_manager`: a function that returns this node's ManagerServices, or
raises Unavailable when the node is no manager.
"""

from fastapi import APIRouter

from pyswarm_manager.api import (
    backup,
    contents,
    logs,
    networks,
    node_engine,
    nodes,
    service_insight,
    services,
    swarm,
    task_insight,
    tasks,
)

ROUTERS: tuple[APIRouter, ...] = (
    services.router,
    service_insight.router,
    tasks.router,
    task_insight.router,
    logs.router,
    nodes.router,
    node_engine.router,
    networks.router,
    swarm.router,
    backup.router,
    contents.SECRETS_ROUTER,
    contents.CONFIGS_ROUTER,
)
