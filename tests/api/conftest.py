"""The API's fixtures, for the tests of this folder."""

from api_fixtures import api_socket, client, control, golden, root_pem, store

__all__ = ["api_socket", "client", "control", "golden", "root_pem", "store"]
