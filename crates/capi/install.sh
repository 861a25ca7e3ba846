#!/bin/sh
# Puts header, libraries and a pkg-config file below a prefix: install.sh PREFIX [FOLDER_OF_THE_LIBRARIES]
# The libraries come from `cargo build --release -p gabion-capi`. DESTDIR is put before the prefix, as make's users expect.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=${1:?usage: install.sh PREFIX [FOLDER_OF_THE_LIBRARIES]}
from=${2:-${CARGO_TARGET_DIR:-$here/../../target}/release}
to=${DESTDIR:-}$prefix
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)
mkdir -p "$to/include" "$to/lib/pkgconfig"
cp "$here/include/gabion.h" "$to/include/"
found=
for library in libgabion_c.so libgabion_c.dylib libgabion_c.a; do
    if [ -e "$from/$library" ]; then cp "$from/$library" "$to/lib/"; found=1; fi
done
[ -n "$found" ] || { echo "no library in $from: cargo build --release -p gabion-capi" >&2; exit 1; }
sed -e "s|@prefix@|$prefix|" -e "s|@version@|$version|" "$here/gabion.pc.in" >"$to/lib/pkgconfig/gabion.pc"
