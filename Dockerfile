# pg2ch as an image: `docker build -t pg2ch .`. In a container without cron: `docker run … pg2ch --every 30s`.
FROM rust:1.90-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libssl-dev pkg-config zlib1g-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY benches ./benches
COPY sql ./sql
COPY src ./src
RUN cargo build --release --locked --bin pg2ch

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/target/release/pg2ch /usr/bin/pg2ch
USER 65534:65534
# SIGTERM, Docker's own signal, lets the run finish its batches; give it more than the ten seconds of the default.
ENTRYPOINT ["/usr/bin/pg2ch"]
CMD ["--once"]
