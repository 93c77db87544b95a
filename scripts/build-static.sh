#!/usr/bin/env bash
# Builds a static binary, which runs on any Linux of this architecture: target/ARCH-unknown-linux-musl/release/vxtap.
#
# Needs the Rust target (rustup target add x86_64-unknown-linux-musl) and a C compiler for musl (apt install musl-tools).
set -euo pipefail
cd "$(dirname "$0")/.."

arch=$(uname -m)
target=$arch-unknown-linux-musl
command -v musl-gcc >/dev/null || { echo "musl-gcc is missing: apt install musl-tools" >&2; exit 1; }
if [ ! -d "$(rustc --print target-libdir --target "$target")" ]; then
  echo "Rust has no library for $target: rustup target add $target" >&2
  exit 1
fi
cargo build --release --locked --target "$target" --bin vxtap
binary=target/$target/release/vxtap
# The dynamic loader is named in a section of its own: a static program has none.
if command -v readelf >/dev/null && readelf --program-headers "$binary" | grep -q INTERP; then
  echo "$binary is not static" >&2
  exit 1
fi
echo "$binary: $("$binary" --version), $(stat --format %s "$binary") bytes"
