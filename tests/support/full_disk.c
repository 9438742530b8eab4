// Lets writes that extend the files of tables and indexes fail as on a full disk while the file FLAG exists.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int is_full(int fd, off_t end) {
    char link[32], path[4096];
    struct stat file;
    if (access(FLAG, F_OK) != 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "/base/") != NULL && fstat(fd, &file) == 0 && end > file.st_size;
}

static ssize_t write_at(const char *name, int fd, const void *data, size_t size, off_t offset) {
    ssize_t (*next)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, name);
    if (is_full(fd, offset + (off_t)size)) {
        errno = ENOSPC;
        return -1;
    }
    return next(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return write_at("pwrite", fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    return write_at("pwrite64", fd, data, size, offset);
}

int posix_fallocate(int fd, off_t offset, off_t size) {
    int (*next)(int, off_t, off_t) = dlsym(RTLD_NEXT, "posix_fallocate");
    return is_full(fd, offset + size) ? ENOSPC : next(fd, offset, size);
}
