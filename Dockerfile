# The image that `cargo xtask image` writes, for those who have a container engine:
#
#     docker build -t manx:0.1.0 .
#     docker buildx build --platform linux/amd64,linux/arm64 -t registry.example.com/manx:0.1.0 --push .
#
# The programs are built where the engine runs, for the processor that is asked for: nothing is emulated.
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95-bookworm AS build
ARG TARGETARCH=amd64
WORKDIR /manx
COPY . .
# It installs the C compiler and the Rust target that it misses.
RUN cargo xtask image --arch "$TARGETARCH" --files /image

FROM scratch
COPY --from=build /image/ /
ENV PATH=/usr/bin
WORKDIR /
# The pods of the agent, which needs root, say so themselves.
USER 65534:65534
LABEL org.opencontainers.image.description="BGP-routed pod network for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.title="Manx" \
      org.opencontainers.image.url="https://manx.dev" \
      org.opencontainers.image.version="0.1.0"
ENTRYPOINT ["/usr/bin/manx-agent"]
