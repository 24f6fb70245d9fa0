#!/bin/sh
# make-tls.sh DIR CLIENT...: a CA, a broker certificate for loopback and one client certificate per name (CN = name).
# Leaves ca.crt, broker.pem (key and chain, what Kafka's PEM keystore wants) and NAME.crt, NAME.key (what librdkafka wants).
set -eu
dir=$1; shift
mkdir -p "$dir"; cd "$dir"
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=orderpipeline-test-ca -keyout ca.key -out ca.crt 2>/dev/null
issue() { # name, extension line
  openssl req -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf '%s\n' "$2" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm -f "$1.csr" "$1.ext"
}
issue broker "subjectAltName=DNS:localhost,IP:127.0.0.1"
for name in "$@"; do issue "$name" "extendedKeyUsage=clientAuth"; done
# openssl 3 writes PKCS#8, which is the form that Kafka's PEM keystore takes
cat broker.key broker.crt ca.crt > broker.pem
