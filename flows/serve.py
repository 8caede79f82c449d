"""The flow `serve`: let the model of a run answer behind the endpoint, which outlives the flow."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.logging import get_run_logger

from flows.choices import Choice, own_tree_or_run
from stance.runs.catalogue import finished
from stance.serving.command import serve_run


@flow(name="serve", description="Let the model of a run answer behind the endpoint of `make serve`.")
def serve(run: Annotated[str, Choice(own_tree_or_run)] = "") -> str:
    """Swap the endpoint to the model of a run, or start an endpoint with it, and return the address.

    Args:
        run: The name of a run; empty for the run in the project's own tree.

    Raises:
        InputError: There is no such run, or its model is refused. The endpoint stays as it was.
    """
    return serve_run(finished(run) if run else Path(), get_run_logger().info)
