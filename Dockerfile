# Not built by CI: there is no container engine there. Build it with `docker build -t vxtap .`
FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock clippy.toml ./
COPY src src
RUN cargo build --release --locked

FROM debian:bookworm-slim
COPY --from=build /src/target/release/vxtap /usr/local/bin/vxtap
# A port above 1023 and a plain socket need no privilege.
USER 65534:65534
WORKDIR /captures
EXPOSE 4789/udp
ENTRYPOINT ["vxtap"]
CMD ["listen"]
