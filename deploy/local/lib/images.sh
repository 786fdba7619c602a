# shellcheck shell=bash
# Container images without a registry: root folders from Debian packages, put together by buildah, kept as archives.

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
  [[ ! -d $context/root ]] || tar -C "$context/root" -cf "$context/rootfs.tar" .
  build_archive "$context/Containerfile" "$context" "${IMAGE_TAGS[$name]}" "$IMAGES/$name.tar"
}

# build_archive FILE CONTEXT TAG ARCHIVE [BUILDAH ARGUMENT…]
build_archive() {
  local file=$1 context=$2 tag=$3 archive=$4
  shift 4
  # own storage: the machine's is not touched
  local buildah=(buildah --root "$CACHE/storage" --runroot "$CACHE/storage/run" --storage-driver "${LINK_STORAGE_DRIVER:-overlay}")
  "${buildah[@]}" bud --isolation chroot --pull-never --format docker -t "$tag" -f "$file" "$@" "$context"
  # complete under its name at once; this kind of archive is not compressed, so that the import is quick
  rm -f "$archive.new"
  "${buildah[@]}" push "$tag" "docker-archive:$archive.new:$tag"
  mv "$archive.new" "$archive"
  umount "$CACHE/storage/overlay" 2>/dev/null || true
}

# rootfs FOLDER PACKAGE,…: unpacked packages; no install script has run, so what those make is made here
rootfs() {
  local root=$1
  mmdebstrap --variant=extract --format=directory --include="$2" bookworm "$root"
  cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
  printf 'root:x:0:0::/:/nologin\nnonroot:x:65532:65532::/tmp:/nologin\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
  mkdir -p "$root"/{tmp,proc,sys}
  chmod 1777 "$root/tmp"
  rm -rf "$root"/usr/share/{doc,man,lintian,locale,perl,perl5,debconf,pixmaps,bash-completion}
}

# The same packages as the public distroless cc image, without the programs that some of them bring.
context_base() {
  rootfs "$1/root" libc6,libgcc-s1,libstdc++6,libssl3,ca-certificates,tzdata
  rm -rf "$1"/root/usr/{bin,sbin}
}

context_pause() { gcc -O2 -static -Wall -o "$1/pause" "$1/pause.c"; }

# Without the compiler for queries, a third of the size; with the numeric user in /etc/passwd, where initdb looks.
context_postgres() {
  local root=$1/root
  rootfs "$root" postgresql-15,postgresql-client-15,libc-bin,dash,coreutils,ca-certificates,tzdata
  rm -rf "$root"/usr/lib/*/{libLLVM*,perl*} "$root"/usr/lib/postgresql/15/lib/{bitcode,llvmjit*}
  echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >>"$root/etc/passwd"
  echo 'postgres:x:999:' >>"$root/etc/group"
  mkdir -p "$root/var/lib/postgresql/data" "$root/run/postgresql" "$root/var"
  ln -sfn /run "$root/var/run"
  chown -R 999:999 "$root/var/lib/postgresql" "$root/run/postgresql"
}

context_azurite() { cp "$CACHE"/azurite/{node,azurite-blob.js} "$1/"; }

# build_image BINARY [TAG]: the operator's own image, as `docker build` makes it, on our base
build_image() {
  local binary=${1:?which binary?} tag=${2:-localhost/link-operator/link-operator:dev} context cached_key since=$EPOCHREALTIME
  [[ -f $binary && -f $binary.cdx.json ]] || die "no such files: $binary and, from deploy/sbom, $binary.cdx.json"
  image base
  if cached "$IMAGES/.link-operator.key" "$binary" "$binary.cdx.json" "$HERE/../../Dockerfile" "$IMAGES/.base.key" <(echo "$tag"); then
    say "$IMAGES/link-operator.tar holds this binary already"
    return
  fi
  context=$(mktemp -d)
  # shellcheck disable=SC2064 # the name of now
  trap "rm -rf $context" EXIT
  cp "$binary" "$context/link-operator"
  cp "$binary.cdx.json" "$context/link-operator.cdx.json"
  rm -f "$IMAGES/.link-operator.key"
  step "Image $tag" build_archive "$HERE/../../Dockerfile" "$context" "$tag" "$IMAGES/link-operator.tar" \
    --build-arg "BASE=$BASE_IMAGE" --build-arg BINARY=link-operator \
    --build-arg "VERSION=${IMAGE_VERSION:-dev}" --build-arg "REVISION=${IMAGE_REVISION:-unknown}"
  echo "$cached_key" >"$IMAGES/.link-operator.key"
  say "$IMAGES/link-operator.tar: $(took "$since")"
}
