#!/bin/sh
# Starts trio-runner @{version} in n8n's internal mode. Made by `trio-runner init internal`.
#
# n8n runs this file as <node_modules>/@n8n/task-runner-python/.venv/bin/python, with arguments that mean nothing to us and
# an environment of its own making: a token, the broker's address, and those of n8n's variables that are named below or
# concern concurrency, payload, heartbeat and task timeout. Whatever else the runner should know stands in this file.

# n8n passes these on when they are set for it; then n8n's values count.
@{passed_on}

# n8n does not pass these on.
@{own}

exec @{command} start
