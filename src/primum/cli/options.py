"""Options that several verbs share."""

from pathlib import Path

import click

coordinator_state = click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path("coordinator-state"),
    show_default=True,
    help="The coordinator's folder, or yours.",
)
node_state = click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path("node-state"),
    show_default=True,
    help="The node's state folder.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of words.")


def log(command: click.decorators.FC) -> click.decorators.FC:
    """--log and --log-format, of every role that runs for long."""
    form = click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
    file = click.option(
        "--log", "log_file", type=click.Path(path_type=Path), help="Keep what is said in this file (5 x 10 MB at most)."
    )
    return file(form(command))


metrics = click.option(
    "--metrics", metavar="HOST:PORT", help="Answer /healthz and /metrics (Prometheus) there; not a public port."
)
proxy = click.option(
    "--proxy",
    metavar="URL",
    help="HTTP proxy, http://[USER:PASSWORD@]HOST:PORT; `environment`: as HTTPS_PROXY says; `none`: directly.",
)
authority = click.option(
    "--ca",
    "authority",
    type=click.Path(path_type=Path),
    help="PEM of the hospital's own certificate authority: its intercepting proxy is accepted.",
)
patient = click.option(
    "--patient", metavar="REGEX", help="Regular expression with one group that finds the patient in a file's name."
)
single = click.option(
    "--one-image-per-patient", "single", is_flag=True, help="An image that names no patient is one's only one."
)
labels = click.option(
    "--labels",
    type=click.Choice(["one", "several", "ordered"]),
    help="Classes of an image, where no study says it: one; several; one grade.  [default: as labels.csv has them]",
)
