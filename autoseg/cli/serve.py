"""`autoseg serve`: label maps over HTTP."""

import argparse
import re
from ipaddress import ip_address
from pathlib import Path

from autoseg.cli.options import add_device, add_shared
from autoseg.cli.values import duration, gigabytes, positive_integer

MIN_TOKEN_LENGTH = 16
"""Characters of a token; shorter ones can be guessed."""

MAX_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg serve`."""
    parser.add_argument(
        "models", nargs="+", type=named_model, metavar="MODEL",
        help="a trained workspace or an exported model, or NAME=MODEL to name it (default: its file name)",
    )  # fmt: skip
    group = parser.add_argument_group("who may ask")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    group.add_argument("--port", type=port_number, default=8000, help="0 takes a free one (default: 8000)")
    group.add_argument(
        "--token-file", type=Path, default=None, metavar="FILE",
        help="file with the secret that requests must carry; needed unless only this machine can ask",
    )  # fmt: skip
    group.add_argument(
        "--allow-origin", nargs="+", default=(), metavar="URL",
        help="web pages whose scripts may ask, such as https://viewer.example.org for OHIF",
    )  # fmt: skip
    _add_limits(parser.add_argument_group("limits"))
    group = parser.add_argument_group("prediction")
    group.add_argument(
        "--speed", choices=("best", "balanced", "fast"), default="best",
        help="best: all folds, mirrored; balanced: not mirrored; fast: one fold, fewer windows (default: best)",
    )  # fmt: skip
    group.add_argument(
        "--precision", choices=("auto", "fp32", "tf32", "bf16", "fp16"), default="auto",
        help="number format of the networks (default: auto, 16 bits where label maps stay the same)",
    )  # fmt: skip
    add_device(group)
    add_shared(parser)


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-upload", type=gigabytes, default=2.0, metavar="SIZE", help="largest request (default: 2GB)"
    )
    group.add_argument(
        "--max-image", type=gigabytes, default=4.0, metavar="SIZE",
        help="largest image in memory, four bytes a voxel (default: 4GB)",
    )  # fmt: skip
    group.add_argument(
        "--max-memory", type=gigabytes, default=None, metavar="SIZE",
        help="memory that the process with the models may use (default: what is free)",
    )  # fmt: skip
    group.add_argument(
        "--queue", type=positive_integer, default=16, metavar="N", help="jobs that may wait (default: 16)"
    )
    group.add_argument(
        "--timeout", type=duration, default=1800.0, metavar="TIME", help="longest work on one image (default: 30min)"
    )
    group.add_argument(
        "--keep", type=duration, default=1800.0, metavar="TIME",
        help="how long results and uploaded images are kept (default: 30min)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; the exit code is 0 when the server stopped as it was asked to."""
    from autoseg.cli.main import DONE
    from autoseg.errors import UsageError

    token = read_token(arguments.token_file)
    is_local = is_loopback(arguments.host)
    if not is_local and token is None:
        raise UsageError(
            f"--host {arguments.host}: others can ask then, so a token is needed: write at least {MIN_TOKEN_LENGTH} "
            "random characters into a file and give it as --token-file"
        )
    models = _by_name(arguments.models)
    try:
        from autoseg.server.http.serving import serve
    except ImportError as error:
        raise UsageError(
            f"the server needs the package {error.name}. Install it with: python -m pip install 'autoseg-med[server]'"
        ) from error
    from autoseg.server.messages import ModelOptions
    from autoseg.server.settings import ServerSettings

    limit = arguments.max_memory
    options = ModelOptions(
        speed=arguments.speed,
        device=arguments.device,
        precision=arguments.precision,
        max_memory=None if limit is None else round(limit * 1e9),
    )
    settings = ServerSettings(
        token=token,
        checks_host=is_local,
        allowed_origins=tuple(arguments.allow_origin),
        max_upload_bytes=round(arguments.max_upload * 1e9),
        max_image_bytes=round(arguments.max_image * 1e9),
        max_queue=arguments.queue,
        timeout_seconds=arguments.timeout,
        keep_seconds=arguments.keep,
    )
    serve(models, options, settings, host=arguments.host, port=arguments.port)
    return DONE


def named_model(text: str) -> tuple[str, Path]:
    """Read `NAME=MODEL`, or a path whose last part becomes the name.

    Raises:
        argparse.ArgumentTypeError: If the name has other characters than letters, digits, `.`, `_` and `-`.
    """
    name, equals, path = text.partition("=")
    if equals and not re.search(r"[/\\]", name):
        if not re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII) or not path:
            raise argparse.ArgumentTypeError(f"{text!r}: a name has letters, digits, '.', '_' and '-', up to 64")
        return name, Path(path)
    stem = re.sub(r"\.(autoseg|zip)$", "", Path(text).absolute().name)
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem)[:64] or "model", Path(text)


def port_number(text: str) -> int:
    """Read a port, 0 to 65535.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    if not (text.isascii() and text.isdecimal() and int(text[:6]) <= MAX_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to {MAX_PORT}")
    return int(text)


def read_token(path: Path | None) -> str | None:
    """The token in a file, without blanks around it; None without a file.

    Raises:
        UsageError: If the file cannot be read, or its content is too short or not plain text.
    """
    from autoseg.errors import UsageError

    if path is None:
        return None
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a token ({error}); write plain characters into it") from error
    if len(token) < MIN_TOKEN_LENGTH or any(not character.isprintable() or character == " " for character in token):
        raise UsageError(
            f"{path}: the token has {len(token)} characters; expected at least {MIN_TOKEN_LENGTH}, random, on one line"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _by_name(models: list[tuple[str, Path]]) -> dict[str, Path]:
    """Models by name.

    Raises:
        UsageError: If two have one name.
    """
    from autoseg.errors import UsageError

    named: dict[str, Path] = {}
    for name, path in models:
        if name in named:
            raise UsageError(f"{named[name]} and {path} have the same name {name!r}; give one as NAME={path}")
        named[name] = path.absolute()
    return named
