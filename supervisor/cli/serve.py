"""`seccompd serve`: the daemon."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument(
        "--config", metavar="FILE",
        help="the configuration (/etc/seccompd/seccompd.yaml; $XDG_CONFIG_HOME for a user)",
    )
    parser.add_argument(
        "--check-config", action="store_true",
        help="say what is wrong with the configuration and the policies, or what they come to",
    )


def main(args: argparse.Namespace) -> int:
    """0 after an orderly end, or where nothing is wrong; 1 where there are errors."""
    file = Path(args.config) if args.config is not None else None
    if args.check_config:
        return _check(file)
    from supervisor.daemon.beginning import begun

    with begun() as beginning:
        # Only now, for the zygote is not to have them.
        from supervisor.daemon.main import serve
        from supervisor.handlers.registry import FAMILIES
        from supervisor.intake.doors import DOORS

        return serve(file, DOORS, FAMILIES, beginning)


def _check(file: Path | None) -> int:
    from supervisor.daemon.main import check
    from supervisor.handlers.registry import FAMILIES
    from supervisor.intake.doors import DOORS

    config, policies = check(file, DOORS, FAMILIES)
    print(f"{config.file or 'no configuration file, defaults alone'}: ok")
    print(f"  sockets in {config.runtime_directory}: {', '.join(config.doors)}")
    for entry in policies.entries:
        applies = "by its match" if entry.applies else "to nobody: it has no match"
        print(f"  policy {entry.name} ({entry.policy.source}) applies {applies}")
    return 0
