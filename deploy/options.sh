# Sourced by what packs the binary, at the repository's root: reads --binary FILE, --out FOLDER, and
# --tag TAG where `tag` is set already. The script sets `self`, its own file, whose head is the
# usage, and `out`. Without --binary the profile `dist` is built. Sets binary and version.
binary=''
while (($#)); do
  case "$1${2+ }" in
    '--binary ') binary=$2 ;;
    '--out ') out=$2 ;;
    '--tag ') [ -n "${tag+set}" ] && tag=$2 || usage=wrong ;;
    *) usage=wrong ;;
  esac
  if [ -n "${usage-}" ]; then
    sed -n '2,/^[^#]/s/^# //p' "$self" >&2
    exit 64
  fi
  shift 2
done
if [ -z "$binary" ]; then
  deploy/package
  binary=target/package/iothub-gateway
fi
version=$("$binary" --version | cut -d' ' -f2)
