"""How good a policy is: evaluation, statistics over seeds and tasks, learning curves and films."""
