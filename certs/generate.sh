#!/bin/sh
# Makes development certificates in certs/dev: a CA, a server (localhost), a device CA, a device.
set -eu
cd "$(dirname "$0")"
mkdir -p dev
cd dev

authority() { # file, name
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj "/CN=$2" -addext 'basicConstraints=critical,CA:TRUE' \
    -addext 'keyUsage=critical,keyCertSign,cRLSign' -keyout "$1.key" -out "$1.pem" 2>/dev/null
}

leaf() { # file, name, CA, extensions
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
    -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf '%s\n' "$4" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$3.pem" -CAkey "$3.key" -CAcreateserial -days 825 \
    -extfile "$1.ext" -out "$1.pem" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

umask 077
authority ca "iothub-gateway development CA"
authority device-ca "iothub-gateway development device CA"
leaf server localhost ca \
  "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1
extendedKeyUsage=serverAuth"
leaf device-1 device-1 device-ca "extendedKeyUsage=clientAuth"
chmod 600 ../../config/fleet.psk # what holds keys is nobody else's; git does not keep that
printf 'made certs/dev: ca.pem, server.pem, device-ca.pem, device-1.pem and their keys\n'
