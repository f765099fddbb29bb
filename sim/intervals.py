"""Statistics of success tables."""

import math


def wilson(successes, trials, z=1.959964):
    """Wilson's 95 % interval of a proportion; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    denominator = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(only_first, only_second):
    """Two-sided p of McNemar's exact test on paired outcomes.

    `only_first`, `only_second`: pairs in which only the first or only the second succeeded.
    """
    n = only_first + only_second
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    return min(1.0, 2 * tail)


def percentile(values, share):
    """The nearest-rank percentile (`share` in 0..1); NaN without values."""
    values = sorted(values)
    return (
        values[min(len(values) - 1, max(0, math.ceil(share * len(values)) - 1))]
        if values
        else math.nan
    )


def median(values):
    return percentile(values, 0.5)
