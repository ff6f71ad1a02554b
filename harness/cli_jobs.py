"""Commands on jobs that are at work or over: what runs and what died (`status`), what MLflow lacks (`sync`)."""

import typer

app = typer.Typer(rich_markup_mode=None)
