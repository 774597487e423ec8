"""`ehr-tl adapters list|new|check`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import ConceptMaps, folder, named


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="adapters",
        short_help="The adapters there are; makes one, checks one.",
        help="Adapters say how one kind of source becomes events: lists them, makes one, checks one.",
        epilog="Example: ehr-tl adapters new my_hospital --from fhir_r4",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command(
        "list",
        short_help="Names, titles, and what each extends.",
        epilog="Example: ehr-tl adapters list",
    )(list_adapters)
    group.command(
        short_help="Makes a folder with an adapter of your own.",
        epilog="Example: ehr-tl adapters new my_hospital --from fhir_r4",
    )(new)
    group.command(
        short_help="Runs an adapter's examples; what of an export it leaves out.",
        epilog="Example: ehr-tl adapters check my_hospital /data/fhir",
    )(check)
    app.add_typer(group)


def list_adapters() -> None:
    """Names of the adapters that ship or that installed packages bring, what they extend, and their titles."""
    from ehr_tl.convert import load_adapter
    from ehr_tl.convert.adapter import adapter_packages

    packages = adapter_packages()
    manifests = {name: load_adapter(name).manifest for name in sorted(packages)}
    rows = [("name", "extends", "from", "title")]
    rows += [(name, each.extends or "", packages[name], each.title) for name, each in manifests.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *cells, title in rows:
        typer.echo("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths)), title]))


def new(
    name: Annotated[str, typer.Argument(parser=named, metavar="NAME", help="Its name, such as my_hospital.")],
    parent: Annotated[
        str, typer.Option("--from", parser=named, metavar="NAME|FOLDER", help="The adapter that it extends.")
    ] = "fhir_r4",
    out: Annotated[
        Path | None, typer.Option(parser=folder, metavar="FOLDER", help="Folder to make; default: ./NAME.")
    ] = None,
) -> None:
    """Makes a folder with an adapter that extends another, and an example of what it does."""
    from ehr_tl.cli.new_adapter import CASE, new_adapter

    place = out or Path(name)
    new_adapter(name, parent, place)
    shown = shlex.quote(str(place))
    typer.echo(
        f"Made {place}, which reads what {parent} reads. What to do next:\n"
        f"  ehr-tl adapters check {shown} EXPORT   says what of your export it leaves out\n"
        f"  {place / 'adapter.yaml'}   say there what differs\n"
        f"  {place / 'examples' / CASE}   what becomes of an invented patient; add such cases of your own\n"
        f"  ehr-tl doctor EXPORT --adapter {shown}   says what can be asked of your export"
    )


def check(
    adapter: Annotated[str, typer.Argument(parser=named, metavar="NAME|FOLDER", help="Adapter name or folder.")],
    export: Annotated[
        str | None,
        typer.Argument(parser=named, metavar="[EXPORT]", help="Folder or zip, FHIR or tables, to look through."),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="First write the examples' `out` anew.")] = False,
    concept_map: ConceptMaps = None,
) -> None:
    """Runs an adapter's examples: `in` must become `out`. Says what of EXPORT the adapter leaves out.

    Left out are types of resources, elements, code systems and columns of tables: names and counts are shown, and no
    value. Elements and code systems are looked for in the first resources of each type in each file; what --concept-map
    brings counts there, and not for the examples.
    """
    from ehr_tl.convert import load_adapter
    from ehr_tl.convert.adapter import adapter_folder
    from ehr_tl.convert.check import check_examples, examples, left_out, write_example

    loaded, place = load_adapter(adapter, concept_map or ()), adapter_folder(adapter)
    if write:
        for case in examples(place):
            write_example(case)
            typer.echo(f"Written: {case / 'out'}")
    if cases := check_examples(place):
        typer.echo(f"{cases} example{'' if cases == 1 else 's'} of {loaded.manifest.name}: as {place} says.")
    else:
        typer.echo(f"{place} has no examples: put an export into examples/CASE/in, and run this with --write.")
    if export is not None:
        typer.echo(f"\n{left_out(export, loaded).text}")
