"""``python -m bench``: the whole benchmark."""

from bench import groups

groups.ensure()

from bench.run import main  # noqa: E402 - only now is there everything that it imports

main(prog_name="python -m bench")
