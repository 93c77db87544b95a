// Loaded in front of the C library: makes something happen at one system call on the files of a store.
//
// SHIM_DIR    the directory of the store, without links
// SHIM_CALL   open (of a file that is made), write, fsync, rename, or any
// SHIM_FILE   capture, index, manifest, directory, or any
// SHIM_AT     the number of that call on such a file, from 1 on
// SHIM_DOES   once:ERRNO     the call fails
//             full           writes and new files fail with ENOSPC from then on, the first write half done, until a
//                            file is deleted
//             full-for-good  the same, whatever is deleted
//             readonly       every change fails with EROFS from then on, but for a first half of a write
//             deleted        the directory is deleted before the call
//             killed         the process is killed before the call
//             waits          SHIM_MARK is made, and the call waits until that is gone
//             slow           such calls take a tenth of a second from then on
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

enum { NOTHING, FULL, FULL_FOR_GOOD, READONLY };

static atomic_int calls, now_is, has_come;

static int ends(const char *text, const char *end) {
    size_t len = strlen(text), end_len = strlen(end);
    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

// What kind of file of the store it is; none of it where this is NULL.
static const char *kind(const char *path) {
    const char *dir = getenv("SHIM_DIR");
    if (!dir || !path) return NULL;
    size_t len = strlen(dir);
    if (strncmp(path, dir, len) != 0) return NULL;
    if (path[len] == 0 || strcmp(path + len, "/") == 0) return "directory";
    if (path[len] != '/') return NULL;
    const char *name = path + len + 1;
    if (strncmp(name, "MANIFEST", 8) == 0) return "manifest";
    if (ends(name, ".idx.part")) return "index";
    if (ends(name, ".part")) return "capture";
    return "other";
}

static const char *kind_of_fd(int fd) {
    static _Thread_local char path[PATH_MAX];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) return NULL;
    path[len] = 0;
    return kind(path);
}

static void delete_all(void) {
    const char *dir = getenv("SHIM_DIR");
    DIR *open = opendir(dir);
    struct dirent *entry;
    char path[PATH_MAX];
    while (open && (entry = readdir(open))) {
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        unlinkat(AT_FDCWD, path, 0);
    }
    if (open) closedir(open);
    unlinkat(AT_FDCWD, dir, AT_REMOVEDIR);
}

// What becomes of a call: 0 goes on, -1 half of it, else the error.
static int fate(const char *call, const char *of) {
    if (!of) return 0;
    const char *does = getenv("SHIM_DOES"), *file = getenv("SHIM_FILE");
    const char *on = getenv("SHIM_CALL");
    int is_it = (strcmp(call, on) == 0 || strcmp(on, "any") == 0)
        && (strcmp(of, file) == 0 || strcmp(file, "any") == 0);
    if (is_it && atomic_fetch_add(&calls, 1) + 1 == atoi(getenv("SHIM_AT"))) {
        atomic_store(&has_come, 1);
        if (strncmp(does, "once:", 5) == 0) return atoi(does + 5);
        if (strcmp(does, "deleted") == 0) delete_all();
        if (strcmp(does, "killed") == 0) raise(SIGKILL);
        if (strcmp(does, "readonly") == 0) atomic_store(&now_is, READONLY);
        if (strncmp(does, "full", 4) == 0) atomic_store(&now_is, does[4] ? FULL_FOR_GOOD : FULL);
        if (atomic_load(&now_is) != NOTHING && strcmp(call, "write") == 0) return -1;
        if (strcmp(does, "waits") == 0) {
            const char *mark = getenv("SHIM_MARK");
            close(openat(AT_FDCWD, mark, O_CREAT | O_WRONLY, 0600));
            while (faccessat(AT_FDCWD, mark, F_OK, 0) == 0) usleep(2000);
        }
    }
    if (is_it && atomic_load(&has_come) && strcmp(does, "slow") == 0) usleep(100000);
    int is = atomic_load(&now_is);
    if (is == READONLY) return EROFS;
    int needs_room = strcmp(call, "write") == 0 || strcmp(call, "open") == 0;
    if ((is == FULL || is == FULL_FOR_GOOD) && needs_room) return ENOSPC;
    return 0;
}

#define FAIL(error) do { int told = (error); if (told > 0) { errno = told; return -1; } } while (0)

static int makes(const char *path, int flags) {
    // A file that is there needs no room, and may not be written to where nothing may.
    int is_there = faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (is_there) return atomic_load(&now_is) == READONLY && (flags & O_ACCMODE) != O_RDONLY ? EROFS : 0;
    return flags & O_CREAT ? fate("open", kind(path)) : 0;
}

int open64(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (kind(path)) FAIL(makes(path, flags));
    return real(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open64(path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t len) {
    REAL(write);
    int fails = fate("write", kind_of_fd(fd));
    if (fails < 0 && len > 1) return real(fd, bytes, len / 2);
    FAIL(fails < 0 ? EIO : fails);
    return real(fd, bytes, len);
}

int fsync(int fd) {
    REAL(fsync);
    FAIL(fate("fsync", kind_of_fd(fd)));
    return real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    FAIL(fate("fsync", kind_of_fd(fd)));
    return real(fd);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    FAIL(fate("rename", kind(from)));
    return real(from, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    REAL(renameat2);
    FAIL(fate("rename", kind(from)));
    return real(from_dir, from, to_dir, to, flags);
}

int ftruncate64(int fd, off64_t len) {
    REAL(ftruncate64);
    if (kind_of_fd(fd)) FAIL(atomic_load(&now_is) == READONLY ? EROFS : 0);
    return real(fd, len);
}

int unlink(const char *path) {
    REAL(unlink);
    if (kind(path)) FAIL(atomic_load(&now_is) == READONLY ? EROFS : 0);
    int done = real(path);
    int full = FULL;
    if (done == 0 && kind(path)) atomic_compare_exchange_strong(&now_is, &full, NOTHING);
    return done;
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (kind(path)) FAIL(atomic_load(&now_is) == READONLY ? EROFS : 0);
    return real(path, mode);
}
