"""Shell that several backends share: what a host does, and when a group of hosts is started again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from launch.plan import RESTART, quote
from launch.spec import JobSpec

LOST = 255  # what ssh gives when it has no answer
_CODES = "|".join(map(str, RESTART))
_FILE = "~/.t2p/environment"  # on hosts that are reached by ssh: NAME=VALUE lines, for the secrets

HOST = ("python", "-m", "launch.host")  # in front of what a host runs

# From the hosts' exit codes: 0 if all are done, 42 to start again, else what no restart helps.
VERDICT = f"""\
verdict() {{
  local again=0 lost=0 code
  for code; do
    case $code in
      0) ;;
      {LOST}) again=42; lost=$((lost + 1)) ;;
      {_CODES}) again=42 ;;
      *) return "$code" ;;
    esac
  done
  [ "$lost" -lt "$#" ] || return {LOST}
  return "$again"
}}"""


def codes(hosts: int) -> str:
    """Shell: the exit codes that hosts wrote among their output, to the file "$log", as srun and gcloud have one exit
    code for all of them. A host that wrote none was lost."""
    return f"""\
codes() {{
  local told
  told=$(grep -ao 't2p-exit=[0-9]*' "$log" | cut -d= -f2)
  while [ "$(wc -w <<<"$told")" -lt {hosts} ]; do told="$told {LOST}"; done
  echo "$told"
}}"""


def variable(name: str, text: str) -> str:
    """Shell: sets a variable to this text, which is written as it is."""
    mark = f"T2P_{name.upper()}"
    return f"{name}=$(cat <<'{mark}'\n{text}\n{mark}\n)"


def exports(variables: Mapping[str, str]) -> str:
    """Shell: sets the variables, and says so in the log. "" without any."""
    if not variables:
        return ""
    pairs = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join((*(f"export {pair}" for pair in pairs), f"echo {shlex.quote('environment: ' + ' '.join(pairs))}"))


def prepared(setup: str) -> str:
    """Shell: the user's line that prepares the shell, or the end."""
    return f"{{\n{setup}\n}} || exit 3"


def needed(secrets: tuple[str, ...], where: str) -> str:
    """Shell: stops where a secret is missing; its value is not shown."""
    return "\n".join(f': "${{{name}:?is not set {where}}}"' for name in secrets)


def host_script(spec: JobSpec, own: Mapping[str, str], argv: tuple[str, ...], variables: Mapping[str, str]) -> str:
    """Shell: what each host does that is reached by ssh. own: its backend's options. The output is kept on the host
    too, and goes on when nobody reads it any more."""
    log = f'"$HOME/.t2p/{spec.name}.txt"'
    parts = (
        "trap 'echo \"t2p-exit=$?\"' EXIT",
        'mkdir -p "$HOME/.t2p"',
        f"cd {shlex.quote(own['directory'])} || exit 3",
        prepared(own["setup"]),
        f"set -a; . {_FILE} || exit 3; set +a\n{needed(spec.secrets, f'in {_FILE}')}" if spec.secrets else "",
        exports(variables),
        "trap - EXIT\ntrap : HUP TERM",
        f'{quote((*HOST, *argv))} 2>&1 | (trap "" HUP TERM; exec tee --output-error=warn -a {log})',
        'exit "${PIPESTATUS[0]}"',
    )
    return "\n".join(p for p in parts if p)


def remote(job: str) -> str:
    """Shell: sets `remote` to the command for ssh, whatever the login shell on the other side."""
    quotes = """remote="bash -c '$(sed "s/'/'\\\\\\\\''/g" <<<"$job")'\""""
    return f"{variable('job', job)}\n{quotes}"


def loop(spec: JobSpec, attempt: str) -> str:
    """Shell: starts the hosts until they are done, fail, or were started again `retries` times. attempt: lines that
    start them, as children of the shell, and set `answer` to their exit codes. Stopped (Ctrl-C, SIGTERM), it ends the
    children, whose hosts then save and stop."""
    return f"""\
main() {{
set -m
stopped=""
trap 'stopped=1; for job in $(jobs -p); do kill -TERM -- "-$job"; done' INT TERM
restarts=0
while :; do
{attempt}
  if [ -n "$stopped" ]; then echo "{spec.name}: stopped; the same command goes on from there"; return 42; fi
  verdict $answer
  code=$?
  [ "$code" != {LOST} ] || echo "{spec.name}: no host answered; the same command goes on from there"
  [ "$code" = 42 ] || return "$code"
  if [ "$restarts" -ge {spec.retries} ]; then echo "{spec.name}: given up after $restarts restarts"; return 42; fi
  restarts=$((restarts + 1))
  echo "{spec.name}: exit codes" $answer "- restart $restarts of {spec.retries}"
  sleep 30
done
}}
main </dev/null
exit"""
