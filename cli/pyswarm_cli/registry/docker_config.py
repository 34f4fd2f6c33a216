"""Docker's client configuration, `~/.docker/config.json`: credentials of registries, in it or with a credential helper.

What else is in the file stays as it is. A helper is a program `docker-credential-NAME` that takes `get`, `store` and `erase`.
"""

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

HUB = "https://index.docker.io/v1/"
"""Under which name Docker Hub's credentials are kept."""
_HUB_NAMES = ("", "docker.io", "index.docker.io", "registry-1.docker.io")
_TOKEN_USER = "<token>"
_HELPER_TIMEOUT_S = 60
_NOT_FOUND = "credentials not found"

Credentials = dict[str, str]
"""With the names of Docker's `X-Registry-Auth`: username and password, or identitytoken; and serveraddress."""


class DockerConfig:
    """The file, read at once. Raises click.ClickException for one that cannot be read."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        folder = variables.get("DOCKER_CONFIG") or str(Path(variables.get("HOME") or "~").expanduser() / ".docker")
        self.path = Path(folder) / "config.json"
        self._content = _read(self.path)

    def credentials(self, registry: str) -> Credentials | None:
        """Return what is known for a registry (`address_of`), None for nothing."""
        helper = self._helper(registry)
        if helper:
            return _from_helper(helper, registry)
        for name, entry in self._auths().items():
            if address_of(name) == registry and isinstance(entry, dict):
                return _from_entry(entry, registry)
        return None

    def store(self, registry: str, credentials: Credentials) -> None:
        """Keep credentials, in place of those that were there."""
        helper = self._helper(registry)
        token = credentials.get("identitytoken", "")
        if helper:
            user, secret = (_TOKEN_USER, token) if token else (credentials["username"], credentials["password"])
            _run_helper(helper, "store", json.dumps({"ServerURL": registry, "Username": user, "Secret": secret}))
            entry: dict[str, str] = {}
        else:
            pair = f"{credentials['username']}:{'' if token else credentials['password']}"
            entry = {"auth": base64.b64encode(pair.encode()).decode(), **({"identitytoken": token} if token else {})}
        self._write({**self._content, "auths": {**self._without(registry), registry: entry}})

    def erase(self, registry: str) -> bool:
        """Forget a registry's credentials; return whether there were any."""
        helper = self._helper(registry)
        had_any = len(self._without(registry)) < len(self._auths())
        if helper and self.credentials(registry) is not None:
            _run_helper(helper, "erase", registry)
            had_any = True
        if had_any:
            self._write({**self._content, "auths": self._without(registry)})
        return had_any

    @property
    def keeps_plain_text(self) -> bool:
        """Whether credentials lie in the file itself."""
        return not self._content.get("credsStore")

    def _auths(self) -> dict[str, Any]:
        found = self._content.get("auths")
        return found if isinstance(found, dict) else {}

    def _without(self, registry: str) -> dict[str, Any]:
        return {name: entry for name, entry in self._auths().items() if address_of(name) != registry}

    def _helper(self, registry: str) -> str:
        helpers = self._content.get("credHelpers")
        own = {address_of(name): helper for name, helper in helpers.items()} if isinstance(helpers, dict) else {}
        return str(own.get(registry) or self._content.get("credsStore") or "")

    def _write(self, content: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target = self.path.resolve()  # it may be a link to where the person really keeps it
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file, indent="\t")
                file.flush()
                os.fsync(descriptor)  # a power cut must not cost the credentials of all registries
            temporary.replace(target)
        except OSError as error:
            raise click.ClickException(f"cannot write {self.path}: {error.strerror}") from error
        self._content = content


def address_of(name: str) -> str:
    """Return the name under which a registry's credentials are kept: host[:port], and for Docker Hub its old address."""
    host = name.partition("://")[2] if "://" in name else name
    host = host.partition("/")[0]
    return HUB if host in _HUB_NAMES else host


def registry_of(image: str) -> str:
    """Return the registry that an image's name means, as `address_of` does."""
    first, slash, _ = image.partition("/")
    return address_of(first) if slash and ("." in first or ":" in first or first == "localhost") else HUB


def auth_header(image: str) -> dict[str, str]:
    """Return the header with the credentials for an image's registry, if there are any."""
    found = DockerConfig().credentials(registry_of(image))
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(found).encode()).decode()} if found else {}


def _from_entry(entry: Mapping[str, Any], registry: str) -> Credentials | None:
    token = str(entry.get("identitytoken") or "")
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    try:
        pair = base64.b64decode(str(entry.get("auth") or "")).decode()
    except (binascii.Error, UnicodeDecodeError):
        pair = ""
    if pair:
        username, _, password = pair.rstrip("\0").partition(":")
    if not token and not username:
        return None
    found = {"username": username, "password": password, "serveraddress": registry}
    return {**found, "identitytoken": token} if token else found


def _from_helper(helper: str, registry: str) -> Credentials | None:
    answer = _run_helper(helper, "get", registry)
    if answer is None:
        return None
    try:
        found = json.loads(answer)
        username, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"docker-credential-{helper} gave something that is no credentials") from error
    if username == _TOKEN_USER:
        return {"identitytoken": secret, "serveraddress": registry}
    return {"username": username, "password": secret, "serveraddress": registry}


def _run_helper(helper: str, action: str, typed: str) -> str | None:
    """Return what a helper prints, None when it has no such credentials. Raises click.ClickException."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, action], input=typed, capture_output=True, text=True, timeout=_HELPER_TIMEOUT_S)
    except FileNotFoundError as error:
        raise click.ClickException(f"{program} is not installed, which config.json names as the keeper of credentials") from error
    except subprocess.TimeoutExpired as error:
        raise click.ClickException(f"{program} {action} did not end within {_HELPER_TIMEOUT_S} s") from error
    if done.returncode == 0:
        return done.stdout
    said = (done.stdout + done.stderr).strip()
    if _NOT_FOUND in said:
        return None
    raise click.ClickException(f"{program} {action}: {said or f'exit code {done.returncode}'}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise click.ClickException(f"cannot read {path}: it holds no JSON object")
    return content
