#!/bin/sh
# Makes in certs/dev all that config/gateway.toml names: a CA, a server (localhost), a device CA and a
# device (load-0), and the emulator's hub keys.
set -eu
cd "$(dirname "$0")"
mkdir -p dev
cd dev

quiet() { # says something only when it fails
  said=$("$@" 2>&1) || {
    printf 'certs/generate.sh: %s: %s\n' "$1" "$said" >&2
    exit 1
  }
}

authority() { # file, name
  quiet openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj "/CN=$2" -addext 'basicConstraints=critical,CA:TRUE' \
    -addext 'keyUsage=critical,keyCertSign,cRLSign' -keyout "$1.key" -out "$1.pem"
}

leaf() { # file, name, CA, extensions
  quiet openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
    -keyout "$1.key" -out "$1.csr"
  printf '%s\n' "$4" >"$1.ext"
  quiet openssl x509 -req -in "$1.csr" -CA "$3.pem" -CAkey "$3.key" -CAcreateserial -days 825 \
    -extfile "$1.ext" -out "$1.pem"
  rm "$1.csr" "$1.ext"
}

umask 077
authority ca "iothub-gateway development CA"
authority device-ca "iothub-gateway development device CA"
leaf server localhost ca \
  "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1
extendedKeyUsage=serverAuth"
leaf load-0 load-0 device-ca "extendedKeyUsage=clientAuth"
chmod 600 ../../config/fleet.psk ../../config/rules.toml # what holds keys is nobody else's; git does not keep that
cat >rules.toml <<'END'
# Made by certs/generate.sh: admits its device certificates through config/gateway.toml.
[[rule]]
name = "development certificates"
when = { credential = "x509", issuer_ca = "device-ca.pem", identity = "load-*" }
device_id = "{cn}"
END
# The keys of the first policy of config/emulator.toml, published there.
emulator_key() { sed -n "s/^$1 = \"\([^\"]*\)\".*/\1/p" ../../config/emulator.toml | head -n 1; }
emulator_key primary_key >hub.key
emulator_key secondary_key >hub-2.key
printf 'made certs/dev: ca.pem, server.pem, device-ca.pem, load-0.pem and their keys; hub.key, hub-2.key, rules.toml\n'
