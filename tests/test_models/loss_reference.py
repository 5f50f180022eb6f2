"""The equation of the method's classification loss, entry by entry."""

import math


def logit_compensated_bce(logits, target, statistics, terms):
    """Loops over lists (N, K); ``terms`` are scale and bias by polarity."""
    total = 0.0
    for z_row, y_row in zip(logits, target, strict=True):
        for k, (z, y) in enumerate(zip(z_row, y_row, strict=True)):
            rho = statistics.counts[k] / statistics.num_images
            w = y * math.exp(1 - rho) + (1 - y) * math.exp(rho)
            sp, mp, sn, mn = (term[k] for term in terms)
            p = 1 / (1 + math.exp(-(z * sp + mp)))
            q = 1 / (1 + math.exp(-(z * sn + mn)))
            total -= w * (y * math.log(p) + (1 - y) * math.log(1 - q))
    return total / len(logits) / len(statistics.counts)
