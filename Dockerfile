# docker build -t vxtap . ; scripts/check-dockerfile.sh proves the steps without a container engine.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
RUN cargo build --release --locked --bin vxtap

FROM debian:bookworm-slim
COPY --from=build /src/target/release/vxtap /usr/local/bin/vxtap
RUN mkdir /captures /run/vxtap && chown 65534:65534 /captures && chmod 1777 /run/vxtap
# Where the control socket is, which `vxtap status` asks.
ENV RUNTIME_DIRECTORY=/run/vxtap
# A port above 1023 and a plain socket need no privilege. The packet backend needs CAP_NET_RAW and
# CAP_NET_ADMIN: docker run --network host --user 0 --cap-drop ALL --cap-add NET_RAW --cap-add NET_ADMIN …
# Nothing but /captures and /run/vxtap is written: docker run --read-only --tmpfs /run/vxtap …
USER 65534:65534
WORKDIR /captures
VOLUME /captures
EXPOSE 4789/udp
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["vxtap", "status"]
ENTRYPOINT ["vxtap"]
CMD ["listen"]
