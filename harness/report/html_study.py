"""The page of a study: what it found, the best settings, figures, and every trial with a link to its run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.report import html_page
from harness.results.rows import Context
from harness.results.table import Report, Table, clean


def write(report: Report, context: Context, pages: Mapping[str, str], folder: Path) -> Path:
    """Write index.html into a study's folder; `pages` are the addresses of trials' runs by number. Raise OSError."""
    path = folder / html_page.NAME
    path.write_text(render(report, context, pages, folder), encoding="utf-8")
    return path


def render(report: Report, context: Context, pages: Mapping[str, str], folder: Path) -> str:
    """Return the page's text; the finding, which is the report's title, is its headline."""
    linked = replace(
        report,
        tables={name: with_links(each, pages) for name, each in report.tables.items()},
        appendix={name: with_links(each, pages) for name, each in report.appendix.items()},
        headline=report.title,
    )
    return html_page.render(
        "page.html.j2",
        linked,
        context,
        folder,
        title=f"Search: {context.title}",
        facts=[("preset", context.preset), ("data", context.dataset)],
        commands=[clean(context.command)],
    )


def with_links(table: Table, pages: Mapping[str, str]) -> Table:
    """Return a table whose first column, a trial's number or 'trial N', leads to the trial's run."""
    numbers = [row[0].removeprefix("trial ") for row in table.rows]
    links = {(index, 0): pages[number] for index, number in enumerate(numbers) if number in pages}
    return replace(table, links={**table.links, **links})
