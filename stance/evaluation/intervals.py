"""A share of a few answers, with what it may be of many."""

from stance.data.metrics import Share


def share(count: int, total: int) -> Share:
    """Return a share with Wilson's 95 % interval, which is honest about small numbers, and what it is a share of."""
    from scipy.stats import binomtest  # a second of imports, and most processes have no share to compute

    low, high = map(float, binomtest(count, total).proportion_ci(method="wilson"))
    return Share(share=count / total, low=low, high=high, count=count, total=total)
