/* A device with wolfSSL: wolfssl HOST PORT VERSION SUITE IDENTITY KEY-HEX
 * Sends one line, reads until the server closes, prints the suite. Exit 0: a byte came back. */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *identity, *suite;
static unsigned char key[256];
static unsigned int key_len;

static unsigned int give(WOLFSSL *ssl, const char *hint, char *id, unsigned int id_max,
                         unsigned char *out, unsigned int out_max) {
    (void)ssl;
    (void)hint;
    if (key_len > out_max || strlen(identity) >= id_max) return 0;
    strcpy(id, identity);
    memcpy(out, key, key_len);
    return key_len;
}

static unsigned int give13(WOLFSSL *ssl, const char *hint, char *id, unsigned int id_max,
                           unsigned char *out, unsigned int out_max, const char **name) {
    *name = suite;
    return give(ssl, hint, id, id_max, out, out_max);
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    int tls13 = strcmp(argv[3], "1.3") == 0;
    suite = argv[4];
    identity = argv[5];
    for (const char *at = argv[6]; at[0] && at[1] && key_len < sizeof key; at += 2) {
        char pair[3] = {at[0], at[1], 0};
        key[key_len++] = (unsigned char)strtoul(pair, NULL, 16);
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) return 3;

    wolfSSL_Init();
    WOLFSSL_CTX *ctx =
        wolfSSL_CTX_new(tls13 ? wolfTLSv1_3_client_method() : wolfTLSv1_2_client_method());
    wolfSSL_CTX_set_verify(ctx, WOLFSSL_VERIFY_NONE, NULL);
    if (tls13)
        wolfSSL_CTX_set_psk_client_tls13_callback(ctx, give13);
    else
        wolfSSL_CTX_set_psk_client_callback(ctx, give);
    if (wolfSSL_CTX_set_cipher_list(ctx, suite) != WOLFSSL_SUCCESS) {
        printf("this build does not know the suite\n");
        return 4;
    }
    WOLFSSL *ssl = wolfSSL_new(ctx);
    wolfSSL_set_fd(ssl, fd);
    if (wolfSSL_connect(ssl) != WOLFSSL_SUCCESS) {
        char text[80];
        printf("%s\n", wolfSSL_ERR_error_string(wolfSSL_get_error(ssl, 0), text));
        return 1;
    }
    printf("%s\n", wolfSSL_get_cipher_name(ssl));
    wolfSSL_write(ssl, "*\n", 2);
    char answer[4096];
    int got = wolfSSL_read(ssl, answer, sizeof answer);
    close(fd);
    return got > 0 && answer[0] == '*' ? 0 : 1;
}
