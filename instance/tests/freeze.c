/* Makes a disk hang for one directory. Preloaded into a server. While the file FREEZE_FILE exists, writes to files below the directory that it
 * names wait. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_frozen(int fd) {
    char directory[4096], link[64], path[4096];
    const char *file = getenv("FREEZE_FILE");
    int named = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    if (named < 0)
        return 0;
    ssize_t length = read(named, directory, sizeof directory - 1);
    close(named);
    if (length <= 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t found = readlink(link, path, sizeof path - 1);
    return found >= length && memcmp(path, directory, length) == 0;
}

static void wait_for(int fd) {
    while (is_frozen(fd))
        usleep(5000);
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) \
        *(void **)&real = dlsym(RTLD_NEXT, #name); \
    wait_for(fd)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    return real(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    return real(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    return real(fd, bytes, count, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
    return real(fd, parts, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    REAL(ssize_t, pwritev64, int, const struct iovec *, int, off64_t);
    return real(fd, parts, count, at);
}

int fsync(int fd) {
    REAL(int, fsync, int);
    return real(fd);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return real(fd);
}
