/* Forwards Ethernet frames between links of its network namespace after a delay, for kernels without netem. Like a hub, it forwards each frame to
 * all other links.
 *   delay MILLISECONDS LINK...
 * Prints "ready" when it listens. While it is stopped by SIGSTOP, frames are queued, and delivered after SIGCONT. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

enum { LINKS = 16, FRAME = 128 * 1024, BUFFER = 64 * 1024 * 1024 };

struct frame {
    struct frame *next;
    long long due;
    int from;
    ssize_t length;
    char bytes[];
};

static struct frame *first, **last = &first;

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int open_link(const char *name) {
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(name)};
    int on = 1, room = BUFFER, fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
    if (fd < 0) fail("socket");
    /* Frames have offloaded checksums and may be larger than the MTU. The header before each frame has the details, and is forwarded too. */
    if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on)) fail("PACKET_VNET_HDR");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room)) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (bind(fd, (struct sockaddr *)&at, sizeof at)) fail(name);
    return fd;
}

static void take(int fd, int from, int delay) {
    static char bytes[FRAME];
    struct sockaddr_ll sender;
    for (;;) {
        socklen_t size = sizeof sender;
        ssize_t length = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&sender, &size);
        if (length < 0) return;
        if (sender.sll_pkttype == PACKET_OUTGOING) continue;
        struct frame *frame = malloc(sizeof *frame + length);
        if (!frame) fail("malloc");
        *frame = (struct frame){.due = now_ms() + delay, .from = from, .length = length};
        memcpy(frame->bytes, bytes, length);
        *last = frame;
        last = &frame->next;
    }
}

int main(int argc, char **argv) {
    struct pollfd links[LINKS];
    int count = argc - 2, delay = argc > 1 ? atoi(argv[1]) : 0;
    if (count < 1 || count > LINKS) return 2;
    for (int n = 0; n < count; n++) links[n] = (struct pollfd){.fd = open_link(argv[n + 2]), .events = POLLIN};
    puts("ready");
    fflush(stdout);
    for (;;) {
        long long wait = first ? first->due - now_ms() : -1;
        if (poll(links, count, first && wait < 0 ? 0 : wait) < 0 && errno != EINTR) fail("poll");
        for (int n = 0; n < count; n++)
            if (links[n].revents) take(links[n].fd, n, delay);
        while (first && first->due <= now_ms()) {
            struct frame *frame = first;
            for (int n = 0; n < count; n++)
                if (n != frame->from) (void)!write(links[n].fd, frame->bytes, frame->length); /* lost frames are retransmitted by TCP */
            first = frame->next;
            if (!first) last = &first;
            free(frame);
        }
    }
}
