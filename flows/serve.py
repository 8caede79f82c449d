"""The deployment `serve`: a run's model becomes the one that answers, by a click; the endpoint outlives the flow."""

from pathlib import Path

from prefect import flow
from prefect.logging import get_run_logger

from stance.runs.catalogue import finished
from stance.serving.command import serve_run


@flow(name="serve", description="Let the model of a run answer behind the endpoint of `make serve`.")
def serve(run: str = "") -> str:
    """Swap to a run's model, or start the endpoint with it, and return its address.

    Args:
        run: The name of a run; empty for the project's own tree.

    Raises:
        InputError: There is no such run, or its model is refused; the endpoint is as it was.
    """
    return serve_run(finished(run) if run else Path(), get_run_logger().info)
