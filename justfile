# What developers do; CONTRIBUTING.md explains it. On a machine without just and uv: python3 dev.py run | test

set positional-arguments

export UV_PYTHON_DOWNLOADS := "never"
export UV_SYSTEM_CERTS := "true"
# dev.py installs it there; otherwise the one on PATH
installed := justfile_directory() / ".tools/bin/uv"
uv := quote(if path_exists(installed) == "true" { installed } else { "uv" })
sync := uv + " pip sync --quiet --only-binary :all: --build-constraints requirements-tools.lock --no-progress"

# List the commands
default:
    @"{{just_executable()}}" --justfile "{{justfile()}}" --list

# devpi-server and the sidecar on ./devpi-data
run *FLAGS:
    @python3 dev.py run "$@"

# Make .venv from requirements.lock: what the image has, and what the tests start
environment: (_environment ".venv" "requirements.lock" "--compile-bytecode")

# Make .venv-dev from requirements-dev.lock: the same, and the tools
environment-dev: (_environment ".venv-dev" "requirements-dev.lock" "")

# The lock file decides: uv removes what it does not name. One call at a time.
_environment name lock option:
    #!/usr/bin/env bash
    set -euo pipefail
    exec 9>"{{name}}.lock"
    flock 9
    python=$({{uv}} python find --system ${UV_PYTHON:+"$UV_PYTHON"}) # or the first on PATH; uv itself would prefer .venv
    # uv repairs neither an installation that was interrupted nor scripts that name another folder
    complete="{{name}}/complete" wanted="$("$python" -c 'import sys; print(sys.version)') $PWD"
    if [ "$(cat "$complete" 2>/dev/null)" != "$wanted" ]; then
      echo "making {{name}} from {{lock}}" >&2
      {{uv}} venv --quiet --clear --no-project --python "$python" "{{name}}"
    fi
    rm -f "$complete"
    again=$([ -e sidecar/web/openapi/openapi.json ] || echo --reinstall-package devpi-sidecar) # which writes that file
    {{sync}} {{option}} $again --python "{{name}}" "{{lock}}" requirements-project.txt
    echo "$wanted" >"$complete"

# Linters and quick tests; --all, --slow or --alone: what takes long, what measures; else pytest with ARGUMENTS
[no-exit-message]
test *ARGUMENTS: environment environment-dev
    #!/usr/bin/env bash
    set -uo pipefail
    trap 'exit 130' INT # not only the step that runs
    export TESTED_PYTHON="$PWD/.venv/bin/python"
    unset UV_PYTHON # is about the environments made above
    status=0
    step() { # keep the first failure's exit code, and go on
      echo "\$ ${*#.venv-dev/bin/}" >&2
      "$@" || { local code=$?; [ "$status" -ne 0 ] || status=$code; }
    }
    here="not image and not kubernetes and not chaos"
    at_once=(.venv-dev/bin/pytest --numprocesses "$(($(nproc) + 1))" --dist loadfile -m) # most tests wait for processes
    lint() { step "{{just_executable()}}" --justfile "{{justfile()}}" lint; }
    quick() { step "${at_once[@]}" "$here and not slow and not alone"; }
    slow() { step "${at_once[@]}" "$here and slow and not alone"; }
    alone() { step .venv-dev/bin/pytest -m "$here and alone"; } # these measure: nothing else may run
    case "$*" in
      "") lint; quick ;;
      --all) lint; quick; slow; alone ;;
      --slow) slow ;;
      --alone) alone ;;
      *) step .venv-dev/bin/pytest "$@" ;;
    esac
    exit "$status"

# ruff, mypy, import-linter, hadolint
[no-exit-message]
lint: environment-dev
    #!/usr/bin/env bash
    trap 'exit 130' INT
    status=0
    for check in "ruff check ." "ruff format --check ." mypy lint-imports "hadolint Dockerfile"; do
      echo "\$ $check" >&2
      .venv-dev/bin/$check || { status=$?; echo "FAILED $check"; }
    done
    exit "$status"

# The measurements in bench/
[no-exit-message]
bench *ARGUMENTS: environment-dev
    @.venv-dev/bin/python -m bench "$@"

# Write all lock files; --upgrade: with newer versions
lock *OPTIONS:
    #!/usr/bin/env bash
    set -euo pipefail
    compile() { # FILE OPTION …: for every supported Python and platform; no file names a host, so each holds with every index
      {{uv}} pip compile --quiet --universal --python-version 3.11.2 --generate-hashes \
        --custom-compile-command "just lock" --output-file "$@"
    }
    compile requirements.lock pyproject.toml "$@"
    compile requirements-web.lock pyproject.toml --extra web --constraints requirements.lock "$@"
    compile requirements-dev.lock pyproject.toml --group dev --constraints requirements.lock "$@"
    compile requirements-tools.lock --group tools --constraints requirements-dev.lock "$@"
