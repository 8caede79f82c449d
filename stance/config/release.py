"""The block `hub` of `params.yaml`: what a release publishes, and where."""

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
