"""The command line's front: answers at once what needs no torch, and hands the rest on."""

from __future__ import annotations

import sys

from vaekit import __version__
from vaekit.cli.commands import COMMANDS


def main(args: list[str] | None = None) -> None:
    """Runs the command line; `args` are those after the program's name."""
    args = sys.argv[1:] if args is None else args
    if args[:1] == ["--debug"]:
        args = [*args[1:], "--debug"]
    if not args or args[0] in ("-h", "--help"):
        _help()
    elif args[0] == "--version":
        print(f"vaekit {__version__}")
    elif args[0] == "plugins":
        _list_plugins(args[1:])
    elif args[0] == "new-plugin":
        _write_plugin(args[1:])
    elif args[0] == "doctor":
        from vaekit.cli.doctor import doctor

        if args[1:] not in ([], ["--debug"]):
            sys.exit(f"vaekit: error: doctor: expected no argument but got {' '.join(args[1:])}")
        sys.exit(doctor())
    elif args[0] not in COMMANDS and not args[0].startswith("-"):
        from vaekit.registry.plugins import nearest

        hint, known = nearest(args[0], COMMANDS), ", ".join(COMMANDS)
        print(
            f"vaekit: error: There is no command {args[0]!r}.{hint} There are: {known}",
            file=sys.stderr,
        )
        sys.exit(2)
    else:
        try:
            from vaekit.cli.app import run
        except Exception as error:  # such as a torchvision that is for another torch
            if "--debug" in args:
                raise
            said = " ".join(f"{type(error).__name__}: {error}".split())
            print(
                f"vaekit: error: vaekit's packages could not be imported: {said}\n"
                "(vaekit doctor says what is broken, --debug shows the traceback)",
                file=sys.stderr,
            )
            sys.exit(1)
        run(args)


def _help() -> None:
    print("usage: vaekit COMMAND [-c CONFIG] [--OPTION VALUE] ...\n\ncommands:")
    for name, text in COMMANDS.items():
        print(f"  {name:<12} {text}")
    print("\n  vaekit COMMAND --help      all options of a command")
    print("  vaekit fit --print_config  the resolved configuration")
    print("  vaekit --version")


def _write_plugin(args: list[str]) -> None:
    from vaekit.cli.new_plugin import new_plugin

    names = [arg for arg in args if arg != "--debug"]
    if {"-h", "--help"} & set(names):
        print("usage: vaekit new-plugin NAME\n\nwrites a package NAME with a part and its test")
        return
    try:
        if len(names) != 1:
            raise ValueError(f"Expected one name but got {' '.join(names) or 'none'}.")
        files = new_plugin(names[0])
    except (ValueError, OSError) as error:
        print(f"vaekit: error: new-plugin: {error}", file=sys.stderr)
        sys.exit(2)
    print(*(f"  {path}" for path in files), sep="\n")
    print(f"Next: pip install -e './{names[0]}[test]' && pytest {names[0]}")


def _list_plugins(args: list[str]) -> None:
    args = [arg for arg in args if arg != "--debug"]
    if args not in ([], ["--check"]):
        sys.exit(
            f"vaekit: error: plugins: expected no argument or --check but got {' '.join(args)}"
        )
    from rich.console import Console
    from rich.table import Table

    from vaekit.registry.plugins import RegistryError, conflicts, list_plugins, load

    check, broken = bool(args), []
    table = Table("kind", "name", "package", "version", *(["what it is"] if check else []))
    for plugin in list_plugins():
        row = [plugin.kind, plugin.name, plugin.package, plugin.version]
        if check:
            try:
                row.append((load(plugin).__doc__ or "").strip().partition("\n")[0])
            except RegistryError as error:
                row.append("[red]broken, see below[/red]")
                broken.append(f"broken: {error}")
        table.add_row(*row)
    Console().print(table)
    broken += [f"broken: {what}" for what in conflicts()] if check else []
    if broken:
        sys.exit("\n".join(broken))
