"""The unmodified docker CLI against a socket, for tests."""

import asyncio


class DockerCLI:
    """Runs the docker CLI against a socket."""

    def __init__(self, socket_path: str) -> None:
        self.environment = {"DOCKER_HOST": f"unix://{socket_path}", "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}

    async def __call__(self, *arguments: str) -> str:
        """Return what the command prints; it must succeed."""
        code, output, errors = await self.run(*arguments)
        assert code == 0, errors
        return output

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec("docker", *arguments, stdout=pipe, stderr=pipe, env=self.environment)
        output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()
