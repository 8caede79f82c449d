"""The block `hub` of `params.yaml`: what a release publishes, and where."""

from typing import Self

from pydantic import model_validator

from stance.config.section import RepoId, Section


class Hub(Section):
    """Whether and where a release is pushed to the Hugging Face Hub."""

    push: bool
    """Whether a release is also pushed to the Hub. If so, the pre-flight checks for a token that may write."""
    adapter_repo_id: RepoId | None
    """OWNER/NAME of the repository for the adapter."""
    merged_repo_id: RepoId | None
    """OWNER/NAME of the repository for the merged model."""
    private: bool
    """Whether the repositories are private, so that only their owner sees them."""

    @model_validator(mode="after")
    def _push_knows_where(self) -> Self:
        named = {self.adapter_repo_id, self.merged_repo_id} - {None}
        if self.push and len(named) < 2:
            raise ValueError(
                "hub.push is true and hub.adapter_repo_id and hub.merged_repo_id are not two repositories; name them, "
                "like someone/stance-adapter and someone/stance-merged"
            )
        return self
