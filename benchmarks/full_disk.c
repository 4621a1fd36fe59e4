/* A disk that fails at the n-th call that writes below a folder.

   Preloaded by attack_disk.py, which shares one record with every process that is preloaded with it. Calls are counted
   whether they come from Python, from Rust (safetensors) or from C. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct record {
    int64_t at;      /* which call fails first, from 1; 0 for none */
    int64_t error;   /* errno */
    int64_t sticky;  /* whether all later ones fail too */
    int64_t count;   /* calls so far */
    int64_t fired;   /* how many failed */
    char root[1024]; /* the folder, absolute */
    char told[1024]; /* the first call that failed */
};

static struct record *record;
static __thread int inside;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FULL_DISK");
    int descriptor = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR) : -1;
    if (descriptor < 0) return;
    void *found = mmap(NULL, sizeof(struct record), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (found != MAP_FAILED) record = found;
    close(descriptor);
}

/* Whether a path lies below the folder. */
static int below(const char *path) {
    size_t length = strlen(record->root);
    return length && !strncmp(path, record->root, length) && (path[length] == '/' || !path[length]);
}

static void absolute(int folder, const char *path, char *whole) {
    char link[64];
    ssize_t length = 0;
    if (path[0] != '/') {
        if (folder == AT_FDCWD) length = getcwd(whole, PATH_MAX) ? (ssize_t)strlen(whole) : 0;
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            length = readlink(link, whole, PATH_MAX - 1);
        }
        if (length < 0) length = 0;
        whole[length++] = '/';
    }
    snprintf(whole + length, PATH_MAX - length, "%s", path);
}

static int full(void) { return record->error == ENOSPC || record->error == EDQUOT; }

/* Whether this call is to fail; a change of what is there already, such as a removal, fails only where nothing can be written
   at all. */
static int fails(const char *call, const char *path, int needs_space) {
    if (!below(path)) return 0;
    if (full() && !needs_space) return 0;
    int64_t number = __atomic_add_fetch(&record->count, 1, __ATOMIC_SEQ_CST);
    if (!record->at || number < record->at || (number > record->at && !record->sticky)) return 0;
    if (!__atomic_fetch_add(&record->fired, 1, __ATOMIC_SEQ_CST)) snprintf(record->told, sizeof record->told, "%s %s", call, path + strlen(record->root));
    errno = (int)record->error;
    return 1;
}

static int path_fails(const char *call, int folder, const char *path, int needs_space) {
    char whole[2 * PATH_MAX];
    if (!record || inside || !path) return 0;
    inside = 1;
    int kept = errno;
    absolute(folder, path, whole);
    errno = kept;
    int failed = fails(call, whole, needs_space);
    inside = 0;
    return failed;
}

static int file_fails(const char *call, int descriptor, int needs_space) {
    char link[64], whole[PATH_MAX];
    if (!record || inside) return 0;
    inside = 1;
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, whole, sizeof whole - 1);
    errno = kept;
    int failed = 0;
    if (length > 0 && whole[0] == '/') {
        whole[length] = 0;
        failed = fails(call, whole, needs_space);
    }
    inside = 0;
    return failed;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define BY_PATH(type, name, space, folder, path, parameters, ...) \
    type name parameters { return path_fails(#name, folder, path, space) ? -1 : REAL(name)(__VA_ARGS__); }
#define BY_FILE(type, name, space, file, parameters, ...) \
    type name parameters { return file_fails(#name, file, space) ? -1 : REAL(name)(__VA_ARGS__); }

/* A file that is there is opened for writing without any space; an inode and a name need some. */
static int open_fails(int folder, const char *path, int flags) {
    struct stat found;
    if ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_CREAT)) return 0;
    int there = !fstatat(folder, path, &found, 0);
    return path_fails("open", folder, path, !there);
}

#define OPENING(name, at, folder_parameter, folder, pass)                                      \
    int name(folder_parameter const char *path, int flags, ...) {                              \
        mode_t mode = 0;                                                                       \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                   \
            va_list more;                                                                      \
            va_start(more, flags);                                                             \
            mode = va_arg(more, mode_t);                                                       \
            va_end(more);                                                                      \
        }                                                                                      \
        return open_fails(folder, path, flags) ? -1 : REAL(name)(pass path, flags, mode);      \
    }
#define COMMA ,
OPENING(open, 0, , AT_FDCWD, )
OPENING(open64, 0, , AT_FDCWD, )
OPENING(openat, 1, int folder COMMA, folder, folder COMMA)
OPENING(openat64, 1, int folder COMMA, folder, folder COMMA)

#define STREAM(name)                                                                           \
    FILE *name(const char *path, const char *mode) {                                           \
        int writes = strpbrk(mode, "wa+") != NULL;                                             \
        return writes && path_fails(#name, AT_FDCWD, path, 1) ? NULL : REAL(name)(path, mode); \
    }
STREAM(fopen)
STREAM(fopen64)

/* A disk that fills up takes a part of what it is given first. */
ssize_t write(int file, const void *from, size_t size) {
    if (!file_fails("write", file, 1)) return REAL(write)(file, from, size);
    return record->fired == 1 && record->sticky && full() && size > 1 ? REAL(write)(file, from, size / 2) : -1;
}
BY_FILE(ssize_t, pwrite, 1, file, (int file, const void *from, size_t size, off_t at), file, from, size, at)
BY_FILE(ssize_t, pwrite64, 1, file, (int file, const void *from, size_t size, off_t at), file, from, size, at)
BY_FILE(ssize_t, writev, 1, file, (int file, const struct iovec *from, int count), file, from, count)
BY_FILE(ssize_t, sendfile, 1, to, (int to, int from, off_t *at, size_t size), to, from, at, size)
BY_FILE(ssize_t, sendfile64, 1, to, (int to, int from, off64_t *at, size_t size), to, from, at, size)
BY_FILE(ssize_t, copy_file_range, 1, to, (int from, off64_t *at, int to, off64_t *into, size_t size, unsigned flags), from, at, to, into, size, flags)
/* Nothing has to outlive a power cut here, and syncing takes the disk a tenth of a second. */
int fsync(int file) { return file_fails("fsync", file, 1) ? -1 : 0; }
int fdatasync(int file) { return file_fails("fdatasync", file, 1) ? -1 : 0; }
BY_FILE(int, ftruncate, 0, file, (int file, off_t size), file, size)
BY_FILE(int, ftruncate64, 0, file, (int file, off64_t size), file, size)
BY_PATH(int, mkdir, 1, AT_FDCWD, path, (const char *path, mode_t mode), path, mode)
BY_PATH(int, mkdirat, 1, folder, path, (int folder, const char *path, mode_t mode), folder, path, mode)
BY_PATH(int, rename, 1, AT_FDCWD, to, (const char *from, const char *to), from, to)
BY_PATH(int, renameat, 1, folder, to, (int other, const char *from, int folder, const char *to), other, from, folder, to)
BY_PATH(int, renameat2, 1, folder, to, (int other, const char *from, int folder, const char *to, unsigned flags), other, from, folder, to, flags)
BY_PATH(int, link, 1, AT_FDCWD, to, (const char *from, const char *to), from, to)
BY_PATH(int, linkat, 1, folder, to, (int other, const char *from, int folder, const char *to, int flags), other, from, folder, to, flags)
BY_PATH(int, symlink, 1, AT_FDCWD, to, (const char *from, const char *to), from, to)
BY_PATH(int, symlinkat, 1, folder, to, (const char *from, int folder, const char *to), from, folder, to)
BY_PATH(int, unlink, 0, AT_FDCWD, path, (const char *path), path)
BY_PATH(int, unlinkat, 0, folder, path, (int folder, const char *path, int flags), folder, path, flags)
BY_PATH(int, rmdir, 0, AT_FDCWD, path, (const char *path), path)
BY_PATH(int, chmod, 0, AT_FDCWD, path, (const char *path, mode_t mode), path, mode)
BY_PATH(int, fchmodat, 0, folder, path, (int folder, const char *path, mode_t mode, int flags), folder, path, mode, flags)
BY_PATH(int, utimensat, 0, folder, path, (int folder, const char *path, const struct timespec times[2], int flags), folder, path, times, flags)
