"""The API's fixtures, for the tests of this folder."""

from api_fixtures import api_socket, client, control, golden, root_pem, store
from scripted_agents import agents, service

__all__ = ["agents", "api_socket", "client", "control", "golden", "root_pem", "service", "store"]
