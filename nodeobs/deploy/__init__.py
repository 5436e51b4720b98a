"""NodeObservabilities become running agents: what each needs in the cluster (pure), and the leader that sees to it."""
