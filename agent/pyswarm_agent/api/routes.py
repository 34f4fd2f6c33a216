"""All routes of the agent, in one list for the application, which sets `app.state.agent` to this node's AgentServices."""

from fastapi import APIRouter

from pyswarm_agent.api import containers, images, volumes_and_plugins

ROUTERS: tuple[APIRouter, ...] = (containers.router, images.router, volumes_and_plugins.router)
