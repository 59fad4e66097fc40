# The service as an image: one program, which says with --help what it can be told.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
# curl is for the health check. The packages are those of the day, with what was mended in them.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-log-init --shell /usr/sbin/nologin ezout \
    && install --directory --owner ezout --mode 0700 /var/lib/ezout
COPY --from=build /source/target/release/ezout /usr/local/bin/ezout
# By number, so that whoever runs it can tell that it is not root.
USER 10001
EXPOSE 8000 8001
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=12 CMD ["curl", "-fsS", "http://127.0.0.1:8001/readyz"]
ENTRYPOINT ["ezout"]
CMD ["serve"]
