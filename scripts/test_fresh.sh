#!/usr/bin/env bash
# A new machine passes: `make demo` and `make test` in a Debian that holds Python, make, git and nothing else, and an
# installation without our constraints. Needs root, debootstrap, and Python with pip.
#
#     make test-fresh                          in a temporary folder, about 10 GB, removed afterwards
#     make test-fresh FRESH_ROOT=/srv/fresh    in a folder that is empty or does not exist, kept to look around
#     make test-fresh FRESH_SUITE=bookworm     the Debian whose Python is meant (bookworm has 3.11)
#     make test-fresh FRESH_STEPS=test         some of its three steps: demo test without_constraints
#     make test-fresh FRESH_MIRROR=URL         where its packages come from (default: where this machine's do)
#
# What is tested is a clone of HEAD. Where pip finds packages is taken over from this machine: its settings, its PIP_*
# variables and proxies, and the local folders that they name, read-only. Of all else the new machine sees nothing: its
# folder is the root of mount and process namespaces of its own, so that nothing stays mounted, and nothing runs on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suite=${FRESH_SUITE:-bookworm}
python=${PYTHON:-python3}
export FRESH_STEPS=${FRESH_STEPS:-demo test without_constraints}
packages=python3,python3-venv,make,git,ca-certificates
handed_on='^(PIP_[A-Z_]+|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE)='

fail() {
    echo "test_fresh: $*" >&2
    exit 1
}

# On this machine: make the folder, have it filled and entered, remove it.
main() {
    [[ $EUID == 0 ]] || fail "this makes a root file system and needs root; you are $(id -un). Run: sudo make test-fresh"
    for tool in debootstrap git unshare setpriv; do
        command -v "$tool" > /dev/null || fail "$tool is not installed. On Debian: apt-get install debootstrap git util-linux"
    done
    "$python" -m pip --version > /dev/null || fail "$python has no pip, whose settings are taken over; set PYTHON=."
    for name in $FRESH_STEPS; do
        [[ $name =~ ^(demo|test|without_constraints)$ ]] ||
            fail "FRESH_STEPS has '$name'; allowed: demo, test, without_constraints, with blanks between them."
    done
    git_here diff --quiet HEAD || echo "test_fresh: what is not committed is not tested." >&2
    place=${FRESH_ROOT:-}
    if [[ -z $place ]]; then
        place=$(mktemp -d "${TMPDIR:-/tmp}/t2-fresh.XXXXXX")
        temporary=$place
        place=$place/root
    fi
    mkdir -p "$place"
    [[ -z $(ls -A "$place") ]] || fail "FRESH_ROOT=$place is not empty. Give a folder that is, or remove it first."
    chmod 755 "$place" # it becomes /, which every user may enter
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child \
        "$BASH" "${BASH_SOURCE[0]}" enter "$(cd "$place" && pwd -P)" &
    child=$!
    wait "$child"
}

clean_up() {
    status=$?
    if kill -KILL "${child:-}" 2> /dev/null; then
        wait "$child" 2> /dev/null || true # until its mounts are gone
    fi
    [[ -z ${temporary:-} ]] || rm -rf --one-file-system "$temporary"
    exit "$status"
}

git_here() {
    git -c safe.directory="$here" -C "$here" "$@" # the checkout may be another user's
}

# In the new namespaces: fill the folder, mount what a machine has, make it the root.
enter() {
    local root=$1 mirror=${FRESH_MIRROR:-} from path
    if [[ -z $mirror ]] && command -v apt-get > /dev/null; then
        # shellcheck disable=SC2016 # these are apt's
        mirror=$(apt-get indextargets --format '$(SITE) $(LABEL)' | awk '$2 == "Debian" {print $1; exit}')
        from=$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)
        eval "$from" && export http_proxy https_proxy
    fi
    echo "== a $suite with ${packages//,/, } =="
    debootstrap --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"} > "$root.log" 2>&1 ||
        fail "debootstrap did not get through: $(tail -n 3 "$root.log")"
    rm "$root.log"
    cp /etc/hosts "$root/etc/hosts"
    git_here bundle create --quiet "$root/t2.bundle" HEAD
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    "$python" "$here/scripts/pip_settings.py" "$root/etc/pip.conf" | while IFS= read -r path; do
        show "$path" "$root"
    done
    mapfile -t handed < <(env | grep -E "$handed_on")
    cd "$root"
    pivot_root . mnt
    # Signals as a login has them: a shell's background job ignores interrupts, and so would all that it starts.
    exec /usr/sbin/chroot . /usr/bin/env --default-signal -i "${handed[@]}" CI=true FRESH_STEPS="$FRESH_STEPS" HOME=/root \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /bin/bash -c 'umount -l /mnt; git -c advice.detachedHead=false clone --quiet /t2.bundle /home/t2 &&
            exec bash /home/t2/scripts/test_fresh.sh steps'
}

# Mount a file or folder of this machine at the same place in the new root, read-only.
show() {
    local target=$2$1
    if [[ -d $1 ]]; then
        mkdir -p "$target"
    else
        mkdir -p "$(dirname "$target")"
        : >> "$target"
    fi
    mount --bind "$1" "$target"
    mount -o remount,bind,ro "$target"
}

# On the new machine, in the clone.
steps() {
    cd "$here"
    python3 --version
    local name
    for name in $FRESH_STEPS; do
        case $name in
            demo | test) step make "$name" ;;
            *) step without_constraints ;;
        esac
    done
    echo "== a new machine passes ($FRESH_STEPS): $SECONDS s =="
}

step() {
    local start=$SECONDS
    echo "== $* =="
    "$@" || fail "'$*' failed after $((SECONDS - start)) s"
    echo "== $*: $((SECONDS - start)) s =="
}

# The newest versions that pyproject.toml allows; torch alone as the README has it, for the sake of gigabytes of CUDA.
without_constraints() {
    python3 -m venv .venv-open
    .venv-open/bin/pip install --quiet "$(grep '^torch==' constraints.txt)" || return
    .venv-open/bin/pip install --quiet ./stand_ins/pycosat || return
    .venv-open/bin/pip install --quiet --editable ".[dev]" || return
    echo "Versions other than those of constraints.txt:"
    .venv-open/bin/pip freeze --exclude-editable | grep -vixF -f constraints.txt || true
    .venv-open/bin/python -c "import t2" || return
    .venv-open/bin/pytest -q tests/test_conf.py tests/adapters
}

case ${1:-main} in
    main) main ;;
    enter) enter "$2" ;;
    steps) steps ;;
    *) fail "'$1' is none of its parts; it is called without arguments, by make test-fresh." ;;
esac
