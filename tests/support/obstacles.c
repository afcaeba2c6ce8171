/* Preloaded into a container: a volume without hard links, or one whose syncfs doesn't come to an end.
 * Built and switched on by `obstacles.py`. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int refused(void) {
    const char *number = getenv("OBSTACLE_LINK");
    if (number) errno = atoi(number);
    return number != NULL;
}

int link(const char *path, const char *other) {
    return refused() ? -1 : (int)syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, other, 0);
}

int linkat(int dir, const char *path, int to, const char *other, int flags) {
    return refused() ? -1 : (int)syscall(SYS_linkat, dir, path, to, other, flags);
}

/* The first one of all processes leaves a file that says so, and waits for ever; the file lets all others pass. */
int syncfs(int fd) {
    const char *path = getenv("OBSTACLE_SYNCFS");
    int reached = path ? open(path, O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    if (reached < 0) return (int)syscall(SYS_syncfs, fd);
    close(reached);
    for (;;) pause();
}
