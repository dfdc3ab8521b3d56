"""`python -m devhost`: serve the function app of a folder."""

import argparse
import gc
import os
import sys
from pathlib import Path

from devhost import failpoints
from devhost.errors import DevHostError
from devhost.keys import load_keys
from devhost.logs import set_up_logging
from devhost.settings import read_host_options, read_local_settings

DEFAULT_PORT = 7071  # that of the Functions Core Tools
DEFAULT_DATA = Path(".groundwork") / "devhost"
EXIT_CANNOT_START = 2


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal; returns the exit status (2 when the host cannot start)."""
    arguments = _parse(argv)
    try:
        return _run(arguments)
    except DevHostError as error:
        print(f"devhost: {error}", file=sys.stderr)
        return EXIT_CANNOT_START


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m devhost", description=__doc__)
    parser.add_argument("--app", type=Path, default=Path(), help="folder of function_app.py and host.json")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0 picks a free one"
    )
    parser.add_argument("--data", type=Path, help=f"folder for keys and state (default: APP/{DEFAULT_DATA})")
    parser.add_argument("--settings", type=Path, help="app settings (default: APP/local.settings.json)")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> int:
    app_dir = arguments.app.resolve()
    data_dir = (arguments.data or app_dir / DEFAULT_DATA).resolve()
    settings_file = (arguments.settings or app_dir / "local.settings.json").resolve()
    for name, value in read_local_settings(settings_file).items():
        os.environ.setdefault(name, value)
    settings = dict(os.environ)
    if point := settings.get(failpoints.SETTING):
        failpoints.arm(point)
    options = read_host_options(app_dir, settings)
    keys = load_keys(data_dir / "keys.json")
    succeeded = set_up_logging(options.log_levels, arguments.log_format, keys.all)
    os.chdir(app_dir)  # where the worker runs an app
    from devhost.host import Host
    from devhost.server import base_url, bind, bound_to, run_loop, serve

    listener = bind(arguments.host, arguments.port)
    address = base_url(listener)
    # The app may ask from where it can be reached; Azure and the Core Tools say so by the same name.
    os.environ["WEBSITE_HOSTNAME"] = bound_to(listener)

    async def serve_app() -> int:
        host = Host(app_dir, data_dir, options, settings, keys, address, succeeded)
        # What the app loaded stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()

        def announce() -> None:
            count = len(host.functions)
            print(
                f"devhost: {address} serves {count} functions; keys in {data_dir / 'keys.json'}", flush=True
            )

        return await serve(host, listener, announce)

    status = run_loop(serve_app())
    if status != 0:
        sys.stderr.flush()
        os._exit(status)  # a cut-off sync function still holds its thread, which would keep us here
    return status


if __name__ == "__main__":
    sys.exit(main())
