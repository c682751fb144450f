/* A device with mbedTLS: mbedtls HOST PORT SUITE FRAGMENT [IDENTITY KEY-HEX]
 * FRAGMENT is the max_fragment_length to ask for: 0, 512, 1024, 2048 or 4096. Without an identity
 * it does not look at the server's certificate. Sends one line, reads until the server closes,
 * prints suite and the longest plaintext read. Exit 0: bytes came back. */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc != 5 && argc != 7) return 2;
    static const int codes[] = {0, 512, 1024, 2048, 4096};
    int suites[2] = {mbedtls_ssl_get_ciphersuite_id(argv[3]), 0};
    if (!suites[0]) {
        printf("this build does not know the suite\n");
        return 4;
    }
    mbedtls_net_context net;
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_ssl_config config;
    mbedtls_ssl_context ssl;
    mbedtls_net_init(&net);
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&random);
    mbedtls_ssl_config_init(&config);
    mbedtls_ssl_init(&ssl);
    mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0);
    mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                MBEDTLS_SSL_PRESET_DEFAULT);
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_NONE);
    mbedtls_ssl_conf_ciphersuites(&config, suites);
    for (unsigned char code = 1; code < 5; code++)
        if (codes[code] == atoi(argv[4])) mbedtls_ssl_conf_max_frag_len(&config, code);
    if (argc == 7) {
        unsigned char key[256];
        size_t length = 0;
        for (const char *at = argv[6]; at[0] && at[1] && length < sizeof key; at += 2) {
            char pair[3] = {at[0], at[1], 0};
            key[length++] = (unsigned char)strtoul(pair, NULL, 16);
        }
        mbedtls_ssl_conf_psk(&config, key, length, (unsigned char *)argv[5], strlen(argv[5]));
    }
    if (mbedtls_net_connect(&net, argv[1], argv[2], MBEDTLS_NET_PROTO_TCP)) return 3;
    mbedtls_ssl_setup(&ssl, &config);
    mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
    int done = mbedtls_ssl_handshake(&ssl);
    if (done) {
        printf("-0x%04x\n", (unsigned)-done);
        return 1;
    }
    mbedtls_ssl_write(&ssl, (const unsigned char *)"*\n", 2);
    unsigned char answer[16384];
    int got, longest = 0, all = 0;
    while ((got = mbedtls_ssl_read(&ssl, answer, sizeof answer)) > 0) {
        longest = got > longest ? got : longest;
        all += got;
    }
    printf("%s longest=%d all=%d\n", mbedtls_ssl_get_ciphersuite(&ssl), longest, all);
    return all > 0 ? 0 : 1;
}
