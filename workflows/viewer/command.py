"""`skyloom view`: open a project and serve its page until Ctrl-C."""

from __future__ import annotations

import contextlib
import threading
import webbrowser

from skyloom.ops.errors import DataError, SkyloomError
from skyloom.workflows.machine import return_memory_early
from skyloom.workflows.places import Place
from skyloom.workflows.status import open_project
from skyloom.workflows.viewer.look import Look
from skyloom.workflows.viewer.server import Server
from skyloom.workflows.viewer.tiles import Tiles


def open_server(project: str | Place, *, node: str | None = None, port: int = 0) -> Server:
    """Server of a project's page, not yet serving.

    Parameters
    ----------
    project
        Its folder.
    node
        Shown first; the last picture, else the last mosaic.
    port
        0: any that is free.

    Raises
    ------
    ConfigError
        If there is no such node, or the port is taken.
    DataError
        If it is no project, or nothing in it lies on a canvas yet.
    """
    tiles = Tiles(open_project(project))
    if node is not None:
        tiles.contents.result(node)
    elif tiles.contents.default() is None:
        raise DataError(
            f"{project} has nothing on a canvas yet: see how far it is with skyloom status {project}, and view it "
            "when integrate has begun"
        )
    return Server(tiles, first=node, port=port)


def serve(server: Server, *, browser: bool = True) -> None:
    """Print the address of the page, open it, and serve it until Ctrl-C."""
    return_memory_early()
    try:
        print(f"{server.address}  (Ctrl-C ends it)", flush=True)
        # While the browser starts.
        threading.Thread(target=_prepare, args=(server,), daemon=True).start()
        if browser:
            threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


def _prepare(server: Server) -> None:
    """Make the first picture, and with it all that is made once."""
    with contextlib.suppress(SkyloomError):
        first = server.api.first_layer()
        if first is not None:
            tiles = server.tiles
            layer = tiles.layer(first)
            with tiles.busy:
                tiles.png(layer, tiles.geometry(layer).last, 0, 0, Look())
