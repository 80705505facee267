"""How well does a monitor see it? Metrics and baselines over anyone's scores, without torch."""
