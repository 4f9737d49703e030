# shellcheck shell=bash
# What scripts/serve and scripts/test share: a virtual environment in .venv that is made once and kept up to date, and
# background jobs that end with the script. Sourced, from the root of the project.

set -m # every background job is a process group of its own: Ctrl-C reaches this script alone, which ends them in order

mkdir -p .cache
setup_log=.cache/setup.log
groups=() # process groups to end when the script ends

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "$0: $*"
  exit 1
}

# End every group: first asked, after ten seconds forced. A second Ctrl-C forces at once.
end_groups() {
  local group deadline=$((SECONDS + 10))
  trap 'deadline=0' INT TERM HUP
  for group in "${groups[@]}"; do kill -TERM -- "-$group" || true; done # one that has ended already is no error
  for group in "${groups[@]}"; do
    while kill -0 -- "-$group"; do
      if ((SECONDS > deadline)); then
        kill -KILL -- "-$group" || true
        break
      fi
      sleep 0.05
    done
  done
} 2>/dev/null

trap end_groups EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# start COMMAND...: run it in the background; `started` is its process id, and its group's. If this script is killed
# outright, the kernel ends the command (where setpriv is there to ask for it).
start() {
  local tether=()
  if setpriv --pdeathsig TERM true 2>/dev/null; then tether=(setpriv --pdeathsig TERM); fi
  "${tether[@]}" "$@" </dev/null &
  started=$!
  groups+=("$started")
}

# quietly WHAT COMMAND...: run it with its output in the log, which is shown if it fails.
quietly() {
  local what=$1
  shift
  start "$@" >>"$setup_log" 2>&1
  wait "$started" 2>/dev/null || {
    tail -n 25 "$setup_log" >&2
    fail "$what failed; the whole log is in $setup_log"
  }
  unset 'groups[-1]'
}

# is_python COMMAND: it runs, and is at least 3.11
is_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# is_quick COMMAND: it was built with profile-guided optimisation, which a third of a request's cost depends on. The
# Pythons of distributions are, but do not say so; others are where their configuration says it.
is_quick() {
  "$1" -c 'import sys, sysconfig
options = sysconfig.get_config_var("CONFIG_ARGS") or ""
sys.exit(sys.base_prefix != "/usr" and "--enable-optimizations" not in options)' 2>/dev/null
}

# A Python of at least 3.11: $PYTHON, or the first that runs (a name on PATH may be a shim of a version manager), but
# rather one of the same version that is quick.
find_python() {
  local candidate lacking= version
  python=
  for candidate in "${PYTHON:-python3}" python3.11 python3.12 python3.13 python3.14 python3; do
    if is_python "$candidate"; then
      if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
        python=$candidate
        break
      fi
      lacking=$candidate
    fi
  done
  if [[ -z $python ]]; then
    [[ -z $lacking ]] || fail "$lacking has no venv module; on Debian: apt-get install python3-venv"
    fail "Python 3.11 or later is needed; on Debian: apt-get install python3 python3-venv"
  fi
  if [[ -n ${PYTHON:-} ]] || is_quick "$python"; then return; fi
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  candidate=/usr/bin/python$version
  if is_python "$candidate" && "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then python=$candidate; fi
}

# setup PROJECT: .venv holds the project (. or .[dev], editable) and its dependencies. A stamp says for which
# pyproject.toml; an interrupted installation leaves no stamp but a mark, and is begun anew.
setup() {
  local stamp=".venv/.stamp-$1" wanted
  wanted=$(cksum <pyproject.toml)
  if [[ -x .venv/bin/python && ! -e .venv/.unfinished && $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then return; fi
  : >"$setup_log"
  if [[ -e .venv/.unfinished ]] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    find_python
    say "Making .venv with $("$python" --version) ..."
    rm -rf .venv
    mkdir .venv
    touch .venv/.unfinished
    quietly "making .venv" "$python" -m venv .venv
  fi
  say "Installing $1 into .venv (a minute the first time; progress in $setup_log) ..."
  touch .venv/.unfinished
  quietly "the installation" .venv/bin/python -m pip install --disable-pip-version-check --editable "$1"
  rm .venv/.unfinished
  printf '%s' "$wanted" | tee "$stamp" >.venv/.stamp-. # an extra has all that the project has without it
}

compiled_folder() { .venv/bin/python -c 'from gateway.compiled import folder; print(folder())'; }

# Nothing is left to be compiled, or nothing is to be.
is_compiled() { [[ ${GATEWAY_COMPILED:-} == 0 || -d $(compiled_folder) ]]; }

# compile: the package with its hot path compiled, in .cache/compiled/FINGERPRINT (see gateway/compiled.py). Where that
# fails the sources run as they are. What setup.py could not compile is there as it is, so that it is tried once.
compile() {
  local place scratch
  if is_compiled; then return; fi
  place=$(compiled_folder)
  say "Compiling the hot path (two minutes for these sources, then never again; GATEWAY_COMPILED=0 does without) ..."
  rm -rf .cache/compiled build
  scratch=.cache/compiled/scratch
  mkdir -p "$scratch"
  start .venv/bin/python -m pip install --disable-pip-version-check --no-deps --target "$scratch" . >"$setup_log" 2>&1
  if wait "$started" 2>/dev/null; then
    grep -aoh 'model-gateway: not compiled.*' "$setup_log" >&2 || true
    mv "$scratch" "$place"
  else
    say "Compiling failed, the sources run as they are; the log is in $setup_log"
  fi
  unset 'groups[-1]'
}
