# Everything that is built or shipped, by target:
#   dev        for tests: Rust, Postgres 17 with its headers (and 15 and 18), just
#   postgres   released: one member, Postgres 17 with the extension and the instance manager
#   operator   released: the operator only
# Needs BuildKit, the default of current clients (DOCKER_BUILDKIT=1 for older ones).

FROM rust:1.95-slim-trixie AS dev
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      postgresql-17 postgresql-server-dev-17 tzdata-legacy just shellcheck mdbook git pkg-config make iproute2 procps patchelf etcd-server \
 && apt-get clean && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/17
# Other majors, from other Debian suites. The image is built without them if they are not available. (Debian never released 16.)
COPY hack/other-postgres /tmp/
RUN for other in "15 bookworm" "18 forky"; do \
      /tmp/other-postgres $other "/opt/postgresql/${other%% *}" || { echo "no Postgres ${other%% *}"; rm -rf "/opt/postgresql/${other%% *}"; }; done
# Some builds of the base image include these components, others have rustup to add them.
RUN cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 || rustup component add clippy rustfmt
ENV PATH=/usr/lib/postgresql/17/bin:$PATH \
    PGRX_PG_CONFIG_PATH=/usr/lib/postgresql/17/bin/pg_config \
    LANG=C.UTF-8
WORKDIR /src

FROM dev AS build
COPY . .
RUN --mount=type=cache,id=pgraft-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=pgraft-release,target=/src/target \
    cargo build --release --locked -p pgraft -p pgraft-instance -p pgraft-operator \
 && mkdir /out && cp target/release/libpgraft.so target/release/pgraft-instance target/release/pgraft-operator /out/
# The operator and the libraries that it is linked to, as the root directory of its image.
RUN mkdir /operator && for file in /out/pgraft-operator $(ldd /out/pgraft-operator | grep -o '/[^ ]*'); do \
      install -D "$file" "/operator/$([ "$file" = /out/pgraft-operator ] && echo usr/local/bin/pgraft-operator || echo "$file")"; done

FROM debian:trixie-slim AS postgres
# The ids are fixed, because volumes are owned by them. Only the instance manager creates a database cluster.
# LLVM, for the JIT compiler, would be half of the image. Without its library Postgres runs without JIT, so an empty package satisfies apt.
RUN groupadd --system --gid 999 postgres \
 && useradd --system --uid 999 --gid 999 --home-dir /var/lib/pgraft --create-home --shell /bin/bash postgres \
 && mkdir -p /etc/postgresql-common /tmp/llvm/DEBIAN \
 && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
 && printf '%s\n' 'Package: libllvm19' 'Version: 1:19.99~none' "Architecture: $(dpkg --print-architecture)" 'Multi-Arch: same' \
      'Maintainer: pgraft' 'Description: empty: this image has no JIT compiler' > /tmp/llvm/DEBIAN/control \
 && dpkg-deb --build /tmp/llvm /tmp/llvm.deb >/dev/null && dpkg -i /tmp/llvm.deb >/dev/null \
 && apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-17 tzdata-legacy >/dev/null \
 && apt-get clean \
 && rm -rf /usr/lib/postgresql/17/lib/llvmjit* /usr/lib/postgresql/17/lib/bitcode /tmp/llvm* /var/lib/apt/lists/* /var/cache/debconf/* /var/log/* \
      /usr/share/man /usr/share/locale /usr/share/i18n /usr/share/info /etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem \
 && find /usr/share/doc -type f ! -name copyright -delete \
 && install -d -o 999 -g 999 /var/lib/pgraft /var/run/postgresql
COPY --from=build /out/libpgraft.so /usr/lib/postgresql/17/lib/pgraft.so
COPY extension/pgraft.control extension/sql/*.sql /usr/share/postgresql/17/extension/
COPY --from=build /out/pgraft-instance /usr/local/bin/
ENV PATH=/usr/lib/postgresql/17/bin:$PATH LANG=C.UTF-8
USER 999:999
EXPOSE 5432 6432 7001 8008
ENTRYPOINT ["pgraft-instance"]

FROM scratch AS operator
COPY --from=build /operator/ /
USER 10001:10001
ENTRYPOINT ["/usr/local/bin/pgraft-operator"]
