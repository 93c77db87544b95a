#!/usr/bin/env bash
# Builds the Debian package: target/debian/vxtap_VERSION-1_ARCH.deb. Needs cargo-deb (cargo install cargo-deb) and
# dpkg-shlibdeps (apt install dpkg-dev).
#
#   scripts/build-deb.sh             build in release, then pack
#   scripts/build-deb.sh --no-build  pack target/release/vxtap as it is
set -euo pipefail
cd "$(dirname "$0")/.."

cargo deb --version >/dev/null 2>&1 || { echo "cargo-deb is missing: cargo install cargo-deb" >&2; exit 1; }
case ${1:-} in
  --no-build) ;;
  '') cargo build --release --locked --bin vxtap ;;
  *) echo "usage: scripts/build-deb.sh [--no-build]" >&2; exit 2 ;;
esac
vxtap=target/release/vxtap
rm -rf target/package
mkdir -p target/package/man
"$vxtap" man target/package/man
"$vxtap" completions bash >target/package/vxtap.bash
"$vxtap" completions zsh >target/package/_vxtap
"$vxtap" completions fish >target/package/vxtap.fish
cargo deb --no-build --locked
