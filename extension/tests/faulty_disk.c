/* Makes a disk fail for one directory. Preloaded into a Postgres server. While the file PGRAFT_FAULT exists, its content is the fault:
 *   full   every write to files of the directory fails with ENOSPC
 *   eio    the next fsync of the log fails, and the file is removed
 * Each fsync of the log appends a line "PID RESULT" to PGRAFT_FAULT.trace. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_below(int fd, const char *variable) {
    const char *directory = getenv(variable);
    char link[64], path[4096];
    if (directory == NULL) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, directory, strlen(directory)) == 0;
}

static int is_asked(const char *fault) {
    const char *file = getenv("PGRAFT_FAULT");
    char text[8] = "";
    if (file == NULL) return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDONLY);
    if (fd < 0) return 0;
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return length > 0 && strncmp(text, fault, strlen(fault)) == 0;
}

static int is_full(int fd) {
    if (!is_below(fd, "PGRAFT_FAULT_DIR") || !is_asked("full")) return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t n) {
    return is_full(fd) ? -1 : syscall(SYS_write, fd, bytes, n);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    return is_full(fd) ? -1 : syscall(SYS_writev, fd, parts, n);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    return is_full(fd) ? -1 : syscall(SYS_pwrite64, fd, bytes, n, at);
}

static int sync_or_fail(int fd, long call) {
    if (!is_below(fd, "PGRAFT_FAULT_LOG")) return syscall(call, fd);
    int fails = is_asked("eio") && syscall(SYS_unlinkat, AT_FDCWD, getenv("PGRAFT_FAULT"), 0) == 0;
    int result = fails ? -1 : syscall(call, fd);
    char line[64], trace[4096];
    snprintf(trace, sizeof trace, "%s.trace", getenv("PGRAFT_FAULT"));
    int out = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_CREAT | O_APPEND, 0644);
    int length = snprintf(line, sizeof line, "%d %d\n", (int)getpid(), result);
    if (out >= 0) {
        syscall(SYS_write, out, line, length);
        syscall(SYS_close, out);
    }
    if (fails) errno = EIO;
    return result;
}

int fsync(int fd) { return sync_or_fail(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_or_fail(fd, SYS_fdatasync); }
