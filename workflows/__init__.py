"""How it is run: graph, plan, store, runner, schedulers, command line."""
