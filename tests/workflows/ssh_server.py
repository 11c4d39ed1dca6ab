"""A server of SSH on this machine that runs what it is told, for who has the key: `python ssh_server.py FOLDER`.

It prints its port. Key and commands are left in the folder.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncssh


async def pass_on(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(65536):
        target.write(data)


async def serve(folder: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(folder / "key"))
    key.write_public_key(str(folder / "key.pub"))

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        with (folder / "commands").open("a", encoding="utf-8") as told:
            told.write(f"{process.command}\n")
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_shell(process.command or "true", stdout=pipe, stderr=pipe)
        assert child.stdout is not None
        assert child.stderr is not None
        await asyncio.gather(pass_on(child.stdout, process.stdout), pass_on(child.stderr, process.stderr))
        process.exit(await child.wait())

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        authorized_client_keys=str(folder / "key.pub"),
        process_factory=run,
        encoding=None,
    )
    print(server.get_port(), flush=True)
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
