/* Preloaded into the sidecar and all its processes: sees each step that they take in the watched directories, before
 * the kernel does. It can record the steps with their data, kill a process at a step, and make a step fail.
 * The product is unchanged. steps.py compiles it and controls it through the environment:
 *
 *   CHAOS_WATCH   NAME=DIRECTORY[:NAME=DIRECTORY], the directories; a step is named after NAME
 *   CHAOS_TRACE   a file that the steps are appended to, as `struct record` and three byte strings
 *   CHAOS_KILL    PROCESS|STEP|N|VICTIM|whole or torn: at PROCESS's N-th STEP, instead of it (torn: after half of it)
 *   CHAOS_FAIL    PROCESS|STEP|N|ENOSPC or EIO|once or full: PROCESS's N-th STEP fails with that error (full: from then on
 *                 all steps that need space fail, in all processes, until CHAOS_DIED is removed)
 *   CHAOS_DIED    a file that is written when that kill or that failure happens
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { CREATE, TRUNCATE, WRITE, FSYNC, SYNCFS, RENAME, LINK, UNLINK, MKDIR, RMDIR, CHMOD, SYMLINK, UNKNOWN };
static const char *const OPS[] = {"create", "truncate", "write", "fsync", "syncfs", "rename", "link",
                                  "unlink", "mkdir", "rmdir", "chmod", "symlink", "unknown"};

struct record {
    uint32_t op, pid, path, other, data;
    uint32_t name;
    uint64_t offset;
    char process[16];
} __attribute__((packed));

#define WATCHED 4
static struct { char name[32], path[PATH_MAX]; size_t length; } watched[WATCHED];
static int watches;
static int trace = -1;
static pid_t started;
static char kill_process[32], kill_step[PATH_MAX], kill_victim[16], kill_how[16];
static long kill_at;
static int fail_with;
static long counted;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const char *program = "other";

static ssize_t raw_write(int fd, const void *data, size_t length) { return syscall(SYS_write, fd, data, length); }

__attribute__((constructor)) static void begin(void) {
    char text[4096] = {0};
    started = getpid();
    const char *env = getenv("CHAOS_WATCH");
    if (!env) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    for (ssize_t i = 0; i < got; i++)
        if (!text[i]) text[i] = ' ';
    program = strstr(text, "sidecar.worker") ? "child" : strstr(text, "entrypoint.py") ? "sidecar" : "other";
    char all[4 * PATH_MAX], *rest = all, *one;
    snprintf(all, sizeof all, "%s", env);
    while ((one = strsep(&rest, ":")) && watches < WATCHED) {
        char *path = strchr(one, '=');
        if (!path) continue;
        *path++ = 0;
        snprintf(watched[watches].name, sizeof watched[0].name, "%s", one);
        snprintf(watched[watches].path, PATH_MAX, "%s", path);
        watched[watches].length = strlen(path);
        watches++;
    }
    if ((env = getenv("CHAOS_FAIL"))) fail_with = strstr(env, "|EIO|") ? EIO : ENOSPC;
    else env = getenv("CHAOS_KILL");
    if (env) {
        char *spec = strdup(env), *next = spec;
        snprintf(kill_process, sizeof kill_process, "%s", strsep(&next, "|"));
        snprintf(kill_step, sizeof kill_step, "%s", next ? strsep(&next, "|") : "");
        kill_at = next ? atol(strsep(&next, "|")) : 0;
        snprintf(kill_victim, sizeof kill_victim, "%s", next ? strsep(&next, "|") : "both");
        snprintf(kill_how, sizeof kill_how, "%s", next ? next : "whole");
        free(spec);
    }
    if ((env = getenv("CHAOS_TRACE")))
        trace = (int)syscall(SYS_openat, AT_FDCWD, env, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* The worker's fork is the only process here that runs without exec. */
static const char *process(void) { return getpid() == started ? program : "preparation"; }

/* --- paths and names -------------------------------------------------------------------------------------------- */

/* The watched directory that an absolute path is in, or -1. */
static int watch_of(const char *path) {
    for (int i = 0; i < watches; i++)
        if (!strncmp(path, watched[i].path, watched[i].length) &&
            (path[watched[i].length] == '/' || !path[watched[i].length]))
            return i;
    return -1;
}

static void absolute(int dir, const char *path, char *into) {
    char at[64], base[PATH_MAX] = {0};
    if (path[0] == '/') {
        snprintf(into, PATH_MAX, "%s", path);
        return;
    }
    if (dir == AT_FDCWD) snprintf(at, sizeof at, "/proc/self/cwd");
    else snprintf(at, sizeof at, "/proc/self/fd/%d", dir);
    if (readlink(at, base, sizeof base - 1) < 0) base[0] = 0;
    if (path[0]) snprintf(into, PATH_MAX, "%.2000s/%.2000s", base, path);
    else snprintf(into, PATH_MAX, "%s", base);
}

/* Whether an open file is in a watched directory, and its path. A file without a name can't be lost. */
static int of_fd(int fd, char *into) {
    if (!watches) return 0;
    int before = errno;
    char at[64];
    snprintf(at, sizeof at, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(at, into, PATH_MAX - 1);
    errno = before;
    if (length <= 0) return 0;
    into[length] = 0;
    return watch_of(into) >= 0 && !strstr(into, " (deleted)");
}

static int is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

/* "write serverdir/.sidecar/.tmp-marker.json-*": random or numbered parts of a path are replaced. */
static void name_of(enum op op, const char *path, char *into, size_t size) {
    int watch = watch_of(path);
    const char *rest = watch < 0 ? path : path + watched[watch].length;
    char *out = into + snprintf(into, size, "%s %s", OPS[op], watch < 0 ? "outside" : watched[watch].name);
    char *end = into + size - 8;
    while (*rest && out < end) {
        size_t run = 0;
        while (is_hex(rest[run])) run++;
        if (run >= 8 || (run >= 4 && !strncmp(rest + run, "-tmp", 4))) {
            *out++ = '*';
            rest += run;
            continue;
        }
        if (!strncmp(rest, "/-.nodeinfo", 11)) { /* devpi's, by tempfile */
            out += snprintf(out, end - out, "/-.nodeinfo*");
            break;
        }
        if (!strncmp(rest, "/tmp/", 5)) {
            out += snprintf(out, end - out, "/tmp/*");
            break;
        }
        if (!strncmp(rest, "/+files/", 8) || !strncmp(rest, "/unpacked/", 10)) {
            size_t length = strlen(rest);
            int temporary = length > 4 && !strcmp(rest + length - 4, "-tmp");
            out += snprintf(out, end - out, "%.*s*%s", rest[1] == '+' ? 8 : 10, rest, temporary ? "-tmp" : "");
            break;
        }
        *out++ = *rest++;
    }
    *out = 0;
}

/* --- recording and killing -------------------------------------------------------------------------------------- */

static pid_t child_of(pid_t pid) {
    char at[64], text[64] = {0};
    snprintf(at, sizeof at, "/proc/%d/task/%d/children", pid, pid);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, at, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 ? (pid_t)atol(text) : 0;
}

static pid_t parent_of(pid_t pid) {
    char at[64], text[512] = {0}, *field;
    snprintf(at, sizeof at, "/proc/%d/stat", pid);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, at, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 && (field = strrchr(text, ')')) ? (pid_t)atol(field + 4) : 0;
}

/* Whether a process runs: a zombie can't be killed. */
static int lives(pid_t pid) {
    char at[64], text[512] = {0}, *field;
    snprintf(at, sizeof at, "/proc/%d/stat", pid);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, at, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 && (field = strrchr(text, ')')) && field[2] != 'Z' && field[2] != 'X';
}

/* Record that it happened. */
static void note(const char *step) {
    const char *path = getenv("CHAOS_DIED");
    char line[PATH_MAX + 64];
    if (!path) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    raw_write(fd, line, (size_t)snprintf(line, sizeof line, "%s %.4000s %ld\n", process(), step, kill_at));
    close(fd);
}

static void send_kill(const char *step) {
    const char *me = process();
    pid_t sidecar = getpid(), child = getpid();
    if (!strcmp(me, "sidecar")) child = child_of(sidecar);
    else if (!strcmp(me, "child")) sidecar = getppid();
    else child = getppid(), sidecar = parent_of(child);
    int both = !strcmp(kill_victim, "both");
    pid_t victims[] = {both || !strcmp(kill_victim, "sidecar") ? sidecar : 0,
                       both || !strcmp(kill_victim, "child") ? child : 0,
                       both || !strcmp(kill_victim, "self") ? getpid() : 0};
    int hit = 0;
    for (int i = 0; i < 3; i++) hit |= victims[i] > 1 && lives(victims[i]);
    if (hit) note(step);
    for (int last = 0; last < 2; last++) /* itself last */
        for (int i = 0; i < 3; i++)
            if (victims[i] > 1 && (victims[i] == getpid()) == last) kill(victims[i], SIGKILL);
}

/* Whether to die at the step that is about to be done: only a torn write returns from here then. */
static int due(const char *name) {
    if (!kill_at || strcmp(kill_process, process()) || (strcmp(kill_step, "*") && strcmp(kill_step, name))) return 0;
    return __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST) == kill_at;
}

/* Whether the disk has been full since an earlier step of any process, and this step needs space. */
static int is_full(enum op op) {
    const char *path = getenv("CHAOS_DIED");
    return fail_with && !strcmp(kill_how, "full") && (op == CREATE || op == WRITE || op == LINK || op == MKDIR) && path &&
           !syscall(SYS_faccessat, AT_FDCWD, path, F_OK);
}

enum how { WHOLE, TORN, FAILS }; /* FAILS: errno is set, and the step is not to be done */

static enum how step_begins(enum op op, const char *path) {
    char name[PATH_MAX];
    int before = errno;
    name_of(op, path, name, sizeof name);
    enum how how = WHOLE;
    if (is_full(op)) how = FAILS;
    else if (due(name)) {
        if (fail_with) {
            note(name);
            how = FAILS;
        } else if (!strcmp(kill_how, "torn") && op == WRITE) how = TORN;
        else send_kill(name);
    }
    if (how == FAILS) {
        errno = fail_with;
        return how;
    }
    if (trace >= 0) { /* a step and its record are atomic over all threads and processes: the trace has their order */
        pthread_mutex_lock(&mutex);
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        while (fcntl(trace, F_SETLKW, &lock) < 0 && errno == EINTR) {}
    }
    errno = before;
    return how;
}

static void step_ended(int done, enum op op, const char *path, const char *other, uint64_t offset, const void *data,
                       size_t length) {
    if (trace < 0) return;
    int before = errno;
    if (done) {
        char name[PATH_MAX];
        name_of(op, op == RENAME || op == LINK ? other : path, name, sizeof name);
        struct record record = {.op = op, .pid = (uint32_t)getpid(), .path = (uint32_t)strlen(path),
                                .other = other ? (uint32_t)strlen(other) : 0, .data = (uint32_t)length,
                                .name = (uint32_t)strlen(name), .offset = offset};
        snprintf(record.process, sizeof record.process, "%s", process());
        struct iovec parts[] = {{&record, sizeof record}, {(void *)path, record.path}, {(void *)other, record.other},
                                {name, record.name}, {(void *)data, length}};
        if (syscall(SYS_writev, trace, parts, 5) < 0) abort();
    }
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    fcntl(trace, F_SETLK, &lock);
    pthread_mutex_unlock(&mutex);
    errno = before;
}

/* --- the steps -------------------------------------------------------------------------------------------------- */

static int do_open(int dir, const char *path, int flags, mode_t mode) {
    char at[PATH_MAX];
    if (!watches || !(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE)
        return (int)syscall(SYS_openat, dir, path, flags, mode);
    absolute(dir, path, at);
    if (watch_of(at) < 0) return (int)syscall(SYS_openat, dir, path, flags, mode);
    struct stat found;
    int is_there = !lstat(at, &found);
    if (is_there && (!(flags & O_TRUNC) || !S_ISREG(found.st_mode)))
        return (int)syscall(SYS_openat, dir, path, flags, mode);
    enum op op = is_there ? TRUNCATE : CREATE;
    if (step_begins(op, at) == FAILS) return -1;
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    step_ended(fd >= 0, op, at, NULL, 0, NULL, 0);
    return fd;
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode = va_arg(list, mode_t);                                                                                   \
        va_end(list);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return do_open(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return do_open(dir, path, flags, mode); }

static ssize_t torn_write(int fd, const void *data, size_t length, off_t offset, int positioned, const char *path) {
    char name[PATH_MAX];
    if (positioned) syscall(SYS_pwrite64, fd, data, length / 2, offset);
    else raw_write(fd, data, length / 2);
    name_of(WRITE, path, name, sizeof name);
    send_kill(name);
    size_t rest = length - length / 2; /* another process is the victim */
    const char *more = (const char *)data + length / 2;
    ssize_t done = positioned ? syscall(SYS_pwrite64, fd, more, rest, offset + length / 2) : raw_write(fd, more, rest);
    return done < 0 ? done : (ssize_t)(length / 2) + done;
}

static ssize_t raw(int fd, const void *data, size_t length, off_t offset, int positioned) {
    return positioned ? syscall(SYS_pwrite64, fd, data, length, offset) : raw_write(fd, data, length);
}

__attribute__((noinline)) static ssize_t write_to_file(int fd, const void *data, size_t length, off_t offset,
                                                       int positioned) {
    char path[PATH_MAX];
    if (!of_fd(fd, path)) return raw(fd, data, length, offset, positioned);
    if (!positioned) {
        struct stat found;
        offset = fcntl(fd, F_GETFL) & O_APPEND && !fstat(fd, &found) ? found.st_size : lseek(fd, 0, SEEK_CUR);
    }
    enum how how = step_begins(WRITE, path);
    if (how == FAILS) return -1;
    if (how == TORN) return torn_write(fd, data, length, offset, positioned, path);
    ssize_t done = raw(fd, data, length, offset, positioned);
    step_ended(done >= 0, WRITE, path, NULL, (uint64_t)offset, data, done > 0 ? (size_t)done : 0);
    return done;
}

/* Python's signal handler writes a byte to a socket, on a stack of a few KiB that faulthandler took from the heap. The
 * processor's state may take most of it. A path there would overwrite the memory below it.
 */
__attribute__((noinline)) static ssize_t do_write(int fd, const void *data, size_t length, off_t offset,
                                                  int positioned) {
    struct stat found;
    if (fstat(fd, &found) || !S_ISREG(found.st_mode)) return raw(fd, data, length, offset, positioned);
    return write_to_file(fd, data, length, offset, positioned);
}

ssize_t write(int fd, const void *data, size_t length) { return do_write(fd, data, length, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return do_write(fd, data, length, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return do_write(fd, data, length, offset, 1);
}

#define ON_FD(op, call, offset)                                                                                        \
    char path[PATH_MAX];                                                                                               \
    if (!of_fd(fd, path)) return (int)(call);                                                                          \
    if (step_begins(op, path) == FAILS) return -1;                                                                     \
    int done = (int)(call);                                                                                            \
    step_ended(!done, op, path, NULL, offset, NULL, 0);                                                                \
    return done

int ftruncate(int fd, off_t length) { ON_FD(TRUNCATE, syscall(SYS_ftruncate, fd, length), (uint64_t)length); }
int ftruncate64(int fd, off64_t length) { ON_FD(TRUNCATE, syscall(SYS_ftruncate, fd, length), (uint64_t)length); }
int fsync(int fd) { ON_FD(FSYNC, syscall(SYS_fsync, fd), 0); }
int fdatasync(int fd) { ON_FD(FSYNC, syscall(SYS_fdatasync, fd), 0); }
int syncfs(int fd) { ON_FD(SYNCFS, syscall(SYS_syncfs, fd), 0); }
int fchmod(int fd, mode_t mode) { ON_FD(CHMOD, syscall(SYS_fchmod, fd, mode), mode); }

/* The reader of the trace does not understand these: it reports that the recording is useless. */
ssize_t sendfile64(int fd, int from, off64_t *at, size_t length) { ON_FD(UNKNOWN, syscall(SYS_sendfile, fd, from, at, length), 0); }
ssize_t sendfile(int fd, int from, off_t *at, size_t length) { ON_FD(UNKNOWN, syscall(SYS_sendfile, fd, from, at, length), 0); }
int posix_fallocate64(int fd, off64_t at, off64_t length) { ON_FD(UNKNOWN, (errno = 0, syscall(SYS_fallocate, fd, 0, at, length) ? errno : 0), 0); }

static int on_path(enum op op, long number, int dir, const char *path, long argument) {
    char at[PATH_MAX];
    absolute(dir, path, at);
    if (!watches || watch_of(at) < 0) return (int)syscall(number, dir, path, argument);
    if (step_begins(op, at) == FAILS) return -1;
    int done = (int)syscall(number, dir, path, argument);
    step_ended(!done, op, at, NULL, op == MKDIR ? (uint64_t)argument : 0, NULL, 0);
    return done;
}

int unlink(const char *path) { return on_path(UNLINK, SYS_unlinkat, AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) {
    return on_path(flags & AT_REMOVEDIR ? RMDIR : UNLINK, SYS_unlinkat, dir, path, flags);
}
int rmdir(const char *path) { return on_path(RMDIR, SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR); }
int mkdir(const char *path, mode_t mode) { return on_path(MKDIR, SYS_mkdirat, AT_FDCWD, path, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { return on_path(MKDIR, SYS_mkdirat, dir, path, mode); }

static int on_two(enum op op, long number, int dir, const char *path, int to, const char *other, unsigned flags) {
    char from[PATH_MAX], into[PATH_MAX];
    absolute(dir, path, from);
    absolute(to, other, into);
    if (!watches || watch_of(into) < 0) return (int)syscall(number, dir, path, to, other, flags);
    if (step_begins(op, into) == FAILS) return -1;
    int done = (int)syscall(number, dir, path, to, other, flags);
    step_ended(!done, op, from, into, 0, NULL, 0);
    return done;
}

int rename(const char *path, const char *other) {
    return on_two(RENAME, SYS_renameat2, AT_FDCWD, path, AT_FDCWD, other, 0);
}
int renameat(int dir, const char *path, int to, const char *other) {
    return on_two(RENAME, SYS_renameat2, dir, path, to, other, 0);
}
int link(const char *path, const char *other) { return on_two(LINK, SYS_linkat, AT_FDCWD, path, AT_FDCWD, other, 0); }
int linkat(int dir, const char *path, int to, const char *other, int flags) {
    return on_two(LINK, SYS_linkat, dir, path, to, other, (unsigned)flags);
}
