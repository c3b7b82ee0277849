# pg2ch as an image of one static binary and the authorities that Debian trusts, without a shell: `docker build -t pg2ch .` builds it
# from this source. scripts/image takes the released binaries instead, for both kinds of machine.
# In a container without cron: `docker run … pg2ch --every 30s`. The root may be read-only.
ARG BINARY=built

FROM rust:1.90-bookworm AS built
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY packaging ./packaging
COPY scripts ./scripts
COPY sql ./sql
COPY src ./src
RUN scripts/release --binary /usr/bin/pg2ch

FROM scratch AS released
ARG TARGETARCH
COPY target/image/${TARGETARCH}/pg2ch /usr/bin/pg2ch

FROM ${BINARY} AS binary

FROM debian:bookworm-slim AS authorities
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*

FROM scratch
COPY --from=authorities /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=binary /usr/bin/pg2ch /usr/bin/pg2ch
USER 65534:65534
# SIGTERM, Docker's own signal, lets the run finish its batches; give it more than the ten seconds of the default.
ENTRYPOINT ["/usr/bin/pg2ch"]
CMD ["--once"]
