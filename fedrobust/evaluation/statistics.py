"""Confidence in a measured share, and in a difference between two."""

from math import exp, lgamma, log, sqrt

Z95 = 1.959963984540054  # of the normal distribution, two-sided 95 %


def wilson_interval(successes: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Compute Wilson's score interval for a binomial share (Wilson 1927).

        (p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n),  p = successes / total, n = total

    It covers the choice of images as a sample, not the seed of the training run, which only other runs can show.

    Returns:
        (low, high) within [0, 1]. Limit cases: 0 successes give low = 0, all give high = 1, no images (0, 1).

    Raises:
        ValueError: successes outside 0..total.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} successes of {total}")
    if total == 0:
        return 0.0, 1.0
    share, extra = successes / total, z * z / total
    middle = share + extra / 2
    half = z * sqrt(share * (1 - share) / total + extra / (4 * total))
    low, high = (middle - half) / (1 + extra), (middle + half) / (1 + extra)
    return (0.0 if successes == 0 else low), (1.0 if successes == total else high)


def sign_test(ahead: int, behind: int) -> float:
    """Compute the probability of `ahead` or more heads of a fair coin in ahead + behind throws: the one-sided sign
    test.

    For paired verdicts: the two numbers are the images on which only one and only the other attack succeeds (McNemar
    1947, exact). Limit case: no images give 1.

    Raises:
        ValueError: a negative number.
    """
    if min(ahead, behind) < 0:
        raise ValueError(f"{ahead} ahead, {behind} behind")
    total = ahead + behind
    return min(1.0, sum(exp(_log_choose(total, k) - total * log(2)) for k in range(ahead, total + 1)))


def _log_choose(total: int, k: int) -> float:
    return lgamma(total + 1) - lgamma(k + 1) - lgamma(total - k + 1)
