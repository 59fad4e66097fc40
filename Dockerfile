# The service as an image: one program, which says with --help what it can be told.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
# curl is for the health check in docker-compose.yml.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 ezout \
    && install --directory --owner ezout --mode 0700 /var/lib/ezout
COPY --from=build /source/target/release/ezout /usr/local/bin/ezout
USER ezout
EXPOSE 8000 8001
ENTRYPOINT ["ezout"]
CMD ["serve"]
