#!/usr/bin/env bash
# start.sh INSTALL_DIR [DATA_DIR]  - starts n8n with its task broker on loopback, imports and activates
# workflows/*.json on first use of DATA_DIR, and returns when everything answers.
#   PORT (5678)  BROKER_PORT (5679)  TOKEN (test)  LOG_LEVEL (debug)  WAIT (120 s)
#   FOREGROUND=1: become n8n at once, with its output on stdout; waiting and workflows are then the caller's business.
# Any other N8N_* variable set by the caller wins, so e.g. N8N_RUNNERS_TASK_TIMEOUT=5 start.sh ... works.
# In the background it writes DATA_DIR/n8n.pid and DATA_DIR/n8n.log.  Stop it with stop.sh DATA_DIR.
set -euo pipefail
KIT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
DIR="$(cd "${1:?usage: start.sh INSTALL_DIR [DATA_DIR]}" && pwd)"
DATA="${2:-$DIR/data}"; mkdir -p "$DATA"; DATA="$(cd "$DATA" && pwd)"
PORT="${PORT:-5678}"; BROKER_PORT="${BROKER_PORT:-5679}"; TOKEN="${TOKEN:-test}"; WAIT="${WAIT:-120}"
. "$DIR/env.sh"

def() { [ -n "${!1+x}" ] || export "$1=$2"; }
# where it listens
export N8N_LISTEN_ADDRESS=127.0.0.1 N8N_HOST=127.0.0.1 N8N_PORT="$PORT"
export N8N_RUNNERS_BROKER_LISTEN_ADDRESS=127.0.0.1 N8N_RUNNERS_BROKER_PORT="$BROKER_PORT"
# runners
def N8N_RUNNERS_MODE external
export N8N_RUNNERS_AUTH_TOKEN="$TOKEN"
# state
export N8N_USER_FOLDER="$DATA"
def DB_TYPE sqlite
def N8N_ENCRYPTION_KEY loopback-test-key
def N8N_ENFORCE_SETTINGS_FILE_PERMISSIONS false
# keep it from calling out
def N8N_DIAGNOSTICS_ENABLED false
def N8N_VERSION_NOTIFICATIONS_ENABLED false
def N8N_TEMPLATES_ENABLED false
def N8N_PERSONALIZATION_ENABLED false
def N8N_HIRING_BANNER_ENABLED false
def N8N_COMMUNITY_PACKAGES_ENABLED false
def N8N_LICENSE_AUTO_RENEW_ENABLED false
def N8N_SECURE_COOKIE false
def N8N_PUSH_BACKEND sse                 # so that n8n_admin.py can listen to what the editor would be shown
# modules that tests of a runner do not need; some of them call out at boot. Set it to "" to load all.
def N8N_DISABLED_MODULES agents,agent-evals,insights,external-secrets,community-packages,oauth-server,mcp,provisioning,breaking-changes,source-control,promotions,dynamic-credentials,chat-hub,sso-oidc,sso-saml,log-streaming,ldap,quick-connect,workflow-builder,favorites,instance-registry,instance-ai,mcp-registry,otel,token-exchange,instance-version-history,runtime-credentials,n8n-packages,workflow-reviews,engine-v2,instance-reporting
# the default "vm" engine makes an isolate for every execution: about 40 ms of processor time, which hides the runner
def N8N_EXPRESSION_ENGINE legacy
# logs; CODE_ENABLE_STDOUT makes print() of a production run show up in n8n.log
def N8N_LOG_LEVEL "${LOG_LEVEL:-debug}"
def NO_COLOR 1
def CODE_ENABLE_STDOUT true
def EXECUTIONS_DATA_SAVE_ON_SUCCESS all

[ -z "${FOREGROUND:-}" ] || exec node "$N8N_BIN" start

if [ -f "$DATA/n8n.pid" ] && kill -0 "$(cat "$DATA/n8n.pid")" 2>/dev/null; then
  echo "already running, pid $(cat "$DATA/n8n.pid")" >&2; exit 1
fi

T0=$(date +%s%N)
setsid node "$N8N_BIN" start > "$DATA/n8n.log" 2>&1 < /dev/null &
PID=$!; echo "$PID" > "$DATA/n8n.pid"
ms() { echo $(( ($(date +%s%N) - T0) / 1000000 )); }
# python3 is there anyway (install.sh needs it); curl may not be
ok() { python3 -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=2).close()' "$1" 2>/dev/null; }
wait_for() {
  until ok "$1"; do
    kill -0 "$PID" 2>/dev/null || { echo "n8n ended during start:" >&2; tail -20 "$DATA/n8n.log" >&2; exit 1; }
    [ "$(ms)" -lt $((WAIT * 1000)) ] || { echo "no answer from $1 after ${WAIT}s" >&2; tail -20 "$DATA/n8n.log" >&2; exit 1; }
    sleep 0.1
  done
}
wait_for "http://127.0.0.1:$BROKER_PORT/healthz"
wait_for "http://127.0.0.1:$PORT/healthz/readiness"
BOOT=$(ms)
# readiness comes a little before the web API's last routes do
wait_for "http://127.0.0.1:$PORT/rest/settings"
if [ ! -f "$DATA/.workflows-synced" ] || [ "$KIT/workflows" -nt "$DATA/.workflows-synced" ]; then
  # the command line import cannot activate in this mode, so this goes through the web API
  python3 "$KIT/tools/n8n_admin.py" "$PORT" sync "$KIT/workflows"
  touch "$DATA/.workflows-synced"
fi
wait_for "http://127.0.0.1:$PORT/webhook/ping"
echo "n8n pid $PID healthy in $BOOT ms, webhooks up in $(ms) ms: web http://127.0.0.1:$PORT  broker http://127.0.0.1:$BROKER_PORT  data $DATA"
