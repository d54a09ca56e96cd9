# The container in which `cross` builds: Debian 12 with the target's libraries beside its own. cross adds the Rust
# toolchain.
FROM debian:12
ARG DEBIAN
ARG GNU
RUN dpkg --add-architecture "$DEBIAN" && apt-get update && apt-get install --assume-yes --no-install-recommends \
    ca-certificates pkg-config gcc libc6-dev "gcc-$GNU" \
    "libc6-dev:$DEBIAN" "libgcc-12-dev:$DEBIAN" "libgstreamer1.0-dev:$DEBIAN" "libgstreamer-plugins-base1.0-dev:$DEBIAN"
ENV PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_LIBDIR=/usr/lib/$GNU/pkgconfig:/usr/share/pkgconfig
