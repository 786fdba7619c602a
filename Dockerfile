# The operator's image: one binary, built before (cargo build --release), on a base without a shell. Beside it the list of what it
# is made of (deploy/sbom target/release/link-operator.cdx.json).
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
FROM ${BASE}

ARG BINARY=target/release/link-operator
ARG BASE
ARG VERSION=dev
# The commit that the binary was built from.
ARG REVISION=unknown
LABEL org.opencontainers.image.title="link-operator" \
      org.opencontainers.image.description="Replicates operational tables to analytical targets, as Kubernetes resources" \
      org.opencontainers.image.url="https://github.com/link-operator/link-operator" \
      org.opencontainers.image.documentation="https://github.com/link-operator/link-operator#readme" \
      org.opencontainers.image.source="https://github.com/link-operator/link-operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"

COPY --chmod=0755 ${BINARY} /usr/local/bin/link-operator
COPY --chmod=0444 ${BINARY}.cdx.json /usr/local/share/sbom/link-operator.cdx.json

# A number, so that runAsNonRoot can be checked without reading /etc/passwd.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/link-operator"]
