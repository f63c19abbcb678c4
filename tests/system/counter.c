// SPDX-License-Identifier: Apache-2.0
//
// counter PROGRAM [ARGUMENTS]: counts datagrams on UDP port 7000, and becomes PROGRAM.
//
// A child answers "KEY NUMBER" with "KEY NUMBER VALUE", where VALUE goes up by one for each new
// NUMBER of the KEY (0 to 15): a request that comes again gets the same answer again.

#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT 7000
#define KEYS 16

static void answer(int socket_fd) {
    static long last[KEYS], value[KEYS];
    for (;;) {
        char text[100];
        struct sockaddr_in6 client;
        socklen_t size = sizeof(client);
        ssize_t length =
            recvfrom(socket_fd, text, sizeof(text) - 1, 0, (struct sockaddr *)&client, &size);
        if (length < 0)
            continue;
        text[length] = 0;
        int key;
        long number;
        if (sscanf(text, "%d %ld", &key, &number) != 2 || key < 0 || key >= KEYS)
            continue;
        if (number != last[key]) {
            last[key] = number;
            value[key]++;
        }
        length = snprintf(text, sizeof(text), "%d %ld %ld", key, number, value[key]);
        sendto(socket_fd, text, length, 0, (struct sockaddr *)&client, size);
    }
}

int main(int count, char **arguments) {
    struct sockaddr_in6 own = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    int socket_fd = socket(AF_INET6, SOCK_DGRAM, 0);
    if (count < 2 || bind(socket_fd, (struct sockaddr *)&own, sizeof(own)) != 0) {
        perror("counter");
        return 1;
    }
    if (fork() == 0)
        answer(socket_fd);
    close(socket_fd);
    execvp(arguments[1], arguments + 1);
    perror(arguments[1]);
    return 1;
}
