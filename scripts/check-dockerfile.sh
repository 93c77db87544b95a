#!/usr/bin/env bash
# Runs the steps of the Dockerfile without a container engine. Run as root.
#
#   scripts/check-dockerfile.sh                 about 3 minutes on two cores, 2 GB in $TMPDIR
#   scripts/check-dockerfile.sh --if-possible   without the rights, the programs or the packages for it, says
#                                               "skipped: WHY" and ends with 0
#
# Each stage gets a Debian root that debootstrap makes. COPY copies only what .dockerignore leaves, RUN runs in the
# root, WORKDIR, ENV and USER hold as in a build. Then the entry point runs as the user of the last stage: --version, and
# `listen` with a capture in the working directory. Its root is read-only then, but for the volumes and /run/vxtap, and the
# HEALTHCHECK has to find it healthy.
#
# Not proven: that the base images can be pulled and what else is in them. In place of `rust:…` stands Debian with gcc,
# libc6-dev and this machine's Rust, in place of `debian:…-slim` a minbase root. An instruction that this script does
# not know is an error. Cargo reads the registry settings of this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
impossible=2
case ${1:-} in
  --if-possible) impossible=0 ;;
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
  '') ;;
  *) echo "usage: scripts/check-dockerfile.sh [--if-possible]" >&2; exit 2 ;;
esac
cannot() {
  [ "$impossible" = 2 ] || printf 'skipped: the Dockerfile is not checked: ' >&2
  echo "$1" >&2
  exit "$impossible"
}
[ "$(id -u)" = 0 ] || cannot "root is needed: debootstrap and chroot"
for needed in debootstrap unshare python3 cargo rustc; do
  command -v "$needed" >/dev/null || cannot "$needed is not installed (debootstrap, util-linux, python3, Rust)"
done
unshare --mount --pid --fork true 2>/dev/null || cannot "no namespace for mounts and processes can be made"
work=$(mktemp -d "${TMPDIR:-/tmp}/vxtap-dockerfile.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
export WORK=$work IMPOSSIBLE=$impossible SYSROOT CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
SYSROOT=$(rustc --print sysroot)
# Mounts are made in a namespace of this script and end with it.
unshare --mount --pid --fork --kill-child --propagation private python3 - <<'PY'
import fnmatch, json, os, pathlib, re, shutil, subprocess, sys, threading, time

work, sysroot, cargo_home = (pathlib.Path(os.environ[name]) for name in ("WORK", "SYSROOT", "CARGO_HOME"))
PATH = "/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def fail(what):
    sys.exit(f"check-dockerfile.sh: {what}")


def instructions():
    """Instruction and arguments of each line; comments left out, continued lines joined."""
    lines = [line for line in open("Dockerfile").read().splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


def ignored(path):
    """Whether .dockerignore keeps a path out of the build: the last pattern that fits it or a parent decides."""
    answer = False
    names = [path, *map(str, pathlib.PurePath(path).parents)]
    for line in open(".dockerignore").read().split("\n"):
        if line.strip() and not line.startswith("#"):
            pattern = line.strip().lstrip("!").strip("/")
            if any(fnmatch.fnmatch(name, pattern) for name in names if name != "."):
                answer = not line.startswith("!")
    return answer


def context():
    target = work / "context"
    for path in subprocess.run(["find", ".", "-type", "f", "-not", "-path", "./target/*", "-not", "-path", "./.git/*"],
                               check=True, capture_output=True, text=True).stdout.splitlines():
        path = path[2:]
        if not ignored(path):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / path)
    return target


def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True)


class Stage:
    def __init__(self, number, image):
        self.root, self.user, self.dir = work / f"root{number}", None, "/"
        self.entry, self.command, self.health, self.volumes = [], [], None, []
        release = re.search(r"(bookworm|trixie)", image)
        if not release or not re.match(r"(rust|debian):", image):
            fail(f"no stand-in for the image {image}")
        rust = image.startswith("rust:")
        extra = ["--include=gcc,libc6-dev,ca-certificates"] if rust else []
        with open(work / "debootstrap.log", "w") as log:
            made = subprocess.run(["debootstrap", "--variant=minbase", *extra, release[1], self.root], stdout=log, stderr=log)
        if made.returncode:
            why = "debootstrap failed:\n" + "".join(open(work / "debootstrap.log").readlines()[-5:])
            if os.environ["IMPOSSIBLE"] == "0":
                print("skipped: the Dockerfile is not checked:", why)
                sys.exit(0)
            fail(why)
        mount("-t", "proc", "proc", self.root / "proc")
        # A /dev of its own.
        mount("-t", "tmpfs", "tmpfs", self.root / "dev")
        for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
            subprocess.run(["mknod", "-m", "666", self.root / "dev" / name, "c", "1", str(minor)], check=True)
        # A build has the network.
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
        self.env = {"PATH": PATH, "HOME": "/root"}
        if rust:
            for source, target in ((sysroot, "usr/local/rust"), (cargo_home, "usr/local/cargo-home")):
                (self.root / target).mkdir()
                mount("--bind", source, self.root / target)
                if source == sysroot:
                    mount("-o", "remount,bind,ro", self.root / target)
            keep = {name: os.environ[name] for name in os.environ if name.lower().endswith("_proxy") or name.startswith("CARGO_")
                    and name != "CARGO_TARGET_DIR" or name.startswith("SSL_CERT")}
            for name in [name for name in keep if name.startswith("SSL_CERT")]:
                certificates = self.root / keep[name].lstrip("/")
                certificates.parent.mkdir(parents=True, exist_ok=True)
                if os.path.isfile(keep[name]):
                    shutil.copy(keep[name], certificates)
            self.env.update(keep, CARGO_HOME="/usr/local/cargo-home", PATH="/usr/local/rust/bin:" + PATH)

    def inside(self, path):
        return self.root / os.path.normpath(os.path.join(self.dir, path)).lstrip("/")

    def run(self, words, **more):
        user = ["--userspec", self.user] if self.user else []
        go = ["sh", "-c", 'cd "$0" && exec "$@"', self.dir]
        return subprocess.run(["chroot", *user, str(self.root), *go, *words], env=self.env, **more)

    def copy(self, words, stages, context):
        source = context
        if words[0].startswith("--from="):
            name = words.pop(0).split("=")[1]
            source = stages[name].root if name in stages else fail(f"no stage {name}")
        *names, target = words
        to = self.inside(target)
        for name in names:
            path = source / name.lstrip("/")
            if not path.exists():
                fail(f"COPY {name}: not in the build")
            into_folder = target.endswith("/") or target == "." or len(names) > 1
            place = to / path.name if into_folder and not path.is_dir() else to
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, place, dirs_exist_ok=True)
            else:
                shutil.copy2(path, place)


stages, stage, files = {}, None, context()
for name, rest in instructions():
    print(f"{name} {rest}", flush=True)
    if name == "FROM":
        image, _, alias = re.sub(r"(?i)\s+as\s+", " as ", rest).partition(" as ")
        stage = Stage(len(stages), image)
        stages[alias or str(len(stages))] = stage
    elif name == "WORKDIR":
        stage.dir = os.path.normpath(os.path.join(stage.dir, rest))
        stage.inside(".").mkdir(parents=True, exist_ok=True)
    elif name == "COPY":
        stage.copy(rest.split(), stages, files)
    elif name == "RUN":
        done = stage.run(["sh", "-c", rest])
        if done.returncode:
            fail(f"RUN ended with {done.returncode}: {rest}")
    elif name == "USER":
        stage.user = rest
    elif name == "ENTRYPOINT":
        stage.entry = json.loads(rest)
    elif name == "CMD":
        stage.command = json.loads(rest)
    elif name == "ENV":
        variable, _, value = rest.partition("=")
        stage.env[variable] = value
    elif name == "HEALTHCHECK":
        stage.health = json.loads(rest.partition("CMD ")[2])
    elif name == "VOLUME":
        stage.volumes.append(rest)
    elif name != "EXPOSE":
        fail(f"an instruction that it does not know: {name}")

if not stage.user or stage.user.split(":")[0] in ("0", "root"):
    fail("the image runs as root")
if stage.run([*stage.entry, "--version"]).returncode:
    fail("--version failed")
mount("--bind", stage.root, stage.root)
mount("-o", "remount,bind,ro", stage.root)
for place in [*stage.volumes, "/run/vxtap"]:
    mount("-t", "tmpfs", "-o", "uid=65534,gid=65534", "tmpfs", stage.root / place.lstrip("/"))
words = [*stage.entry, *stage.command, "--duration", "5s", "-w", "check.pcapng"]
print("run:", *words, flush=True)
listening = threading.Thread(target=lambda: codes.append(stage.run(words).returncode))
codes = []
listening.start()
for _ in range(40):
    time.sleep(0.1)
    health = stage.run(stage.health, capture_output=True, text=True)
    if health.returncode == 0:
        break
else:
    fail(f"the health check says {health.returncode}: {health.stdout}{health.stderr}")
listening.join()
if codes != [0]:
    fail(f"listen ended with {codes}")
if not stage.inside("check.pcapng").stat().st_size:
    fail("no capture in the working directory")
print("every step of the Dockerfile ran")
PY
